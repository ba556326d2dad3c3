#include "decoder.hpp"

#include <algorithm>
#include <cstring>

#include "error.hpp"

namespace edgepress {
namespace {

constexpr auto kInt64 = ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;
constexpr auto kFloat = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
constexpr auto kHalf = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16;

}  // namespace

Decoder::Decoder(const Bundle& bundle, int threads, std::int64_t chunk)
    : bundle_(bundle), chunk_(std::min(chunk, bundle.context)), mask_(static_cast<std::size_t>(bundle.context), 1),
      logits_(static_cast<std::size_t>(bundle.vocabulary)) {
  OrtEnv* env = nullptr;
  check(api().CreateEnv(ORT_LOGGING_LEVEL_ERROR, "edgepress", &env), "onnxruntime");
  env_.reset(env);
  OrtMemoryInfo* cpu = nullptr;
  check(api().CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeDefault, &cpu), "onnxruntime");
  cpu_.reset(cpu);
  OrtSessionOptions* made = nullptr;
  check(api().CreateSessionOptions(&made), "onnxruntime");
  const Options options(made);
  check(api().SetIntraOpNumThreads(made, threads), "threads");
  check(api().SetInterOpNumThreads(made, 1), "threads");
  check(api().DisableMemPattern(made), "options");  // one is kept for each length of text
  logits_start_value_ = tensor(&logits_start_, sizeof logits_start_, {1}, kInt64);
  check(api().AddInitializer(made, "logits_start", logits_start_value_.get()), "logits_start");
  if (bundle.long_from) {
    if (bundle.context > *bundle.long_from) {
      throw InputError("this model changes its frequencies after " + std::to_string(*bundle.long_from) + " tokens, which this program does not; give a --context of no more");
    }
    long_from_ = *bundle.long_from;
    long_from_value_ = tensor(&long_from_, sizeof long_from_, {}, kInt64);
    check(api().AddInitializer(made, "long_from", long_from_value_.get()), "long_from");
  }
  OrtSession* session = nullptr;
  check(api().CreateSession(env_.get(), bundle.model.c_str(), made, &session), bundle.model.string() + " cannot be opened");
  session_.reset(session);
  OrtIoBinding* binding = nullptr;
  check(api().CreateIoBinding(session, &binding), "binding");
  binding_.reset(binding);
  states_.reserve(bundle.states.size());
  for (const State& state : bundle.states) {
    const auto type = state.half ? kHalf : kFloat;
    Memory memory{&state, std::vector<std::byte>(state.bytes), {}, nullptr, nullptr};
    memory.input = tensor(memory.kept.data(), state.bytes, state.shape, type);
    if (!state.in_place) {
      memory.given.resize(state.bytes);
      memory.output = tensor(memory.given.data(), state.bytes, state.shape, type);
    }
    bind(state.input.c_str(), memory.input, false);
    bind(state.output.c_str(), state.in_place ? memory.input : memory.output, true);
    states_.push_back(std::move(memory));
  }
  logits_value_ = tensor(logits_.data(), logits_.size() * sizeof(float), {1, 1, bundle.vocabulary}, kFloat);
  bind("logits", logits_value_, true);
}

void Decoder::reset() {
  position_ = 0;
  for (Memory& memory : states_) {
    if (!memory.state->in_place) std::fill(memory.kept.begin(), memory.kept.end(), std::byte{0});
  }
}

std::int64_t Decoder::append(const std::vector<std::int64_t>& tokens) {
  const auto count = static_cast<std::int64_t>(tokens.size());
  if (count == 0) throw InputError("there are no tokens");
  if (position_ + count > bundle_.context) {
    throw InputError(std::to_string(count) + " tokens after " + std::to_string(position_) + " do not fit in the context of " + std::to_string(bundle_.context));
  }
  for (const std::int64_t token : tokens) {
    if (token < 0 || token >= bundle_.vocabulary) throw InputError("token " + std::to_string(token) + " is not in the vocabulary of " + std::to_string(bundle_.vocabulary));
  }
  for (std::int64_t start = 0; start < count; start += chunk_) run(tokens.data() + start, std::min(chunk_, count - start));
  return std::max_element(logits_.begin(), logits_.end()) - logits_.begin();
}

void Decoder::run(const std::int64_t* tokens, std::int64_t count) {
  tokens_.assign(tokens, tokens + count);
  const Value ids = tensor(tokens_.data(), tokens_.size() * sizeof(std::int64_t), {1, count}, kInt64);
  const std::int64_t total = position_ + count;
  const Value mask = tensor(mask_.data(), static_cast<std::size_t>(total) * sizeof(std::int64_t), {1, total}, kInt64);
  bind("input_ids", ids, false);
  bind("attention_mask", mask, false);
  check(api().RunWithBinding(session_.get(), nullptr, binding_.get()), bundle_.graph + " cannot be run");
  for (Memory& memory : states_) {
    if (!memory.state->in_place) std::memcpy(memory.kept.data(), memory.given.data(), memory.kept.size());
  }
  position_ = total;
}

void Decoder::bind(const char* name, const Value& value, bool output) {
  check(output ? api().BindOutput(binding_.get(), name, value.get()) : api().BindInput(binding_.get(), name, value.get()), name);
}

Value Decoder::tensor(void* data, std::size_t bytes, const std::vector<std::int64_t>& shape, ONNXTensorElementDataType type) {
  OrtValue* value = nullptr;
  check(api().CreateTensorWithDataAsOrtValue(cpu_.get(), data, bytes, shape.data(), shape.size(), type, &value), "a tensor");
  return Value(value);
}

}  // namespace edgepress
