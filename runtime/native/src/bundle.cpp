#include "bundle.hpp"

#include <fstream>

#include <nlohmann/json.hpp>

#include "error.hpp"
#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace edgepress {
namespace {

using Json = nlohmann::json;
namespace fs = std::filesystem;

constexpr std::int64_t kWindowSlack = 16;  // entries of a window's memory beyond it (WINDOW_SLACK of states.py)

Json read_json(const fs::path& path) {
  std::ifstream file(path);
  if (!file) throw InputError(path.string() + " cannot be read; give a directory that `edgepress export --out` wrote");
  try {
    return Json::parse(file);
  } catch (const Json::exception& error) {
    throw InputError(path.string() + " is no JSON: " + error.what());
  }
}

// Float16 arithmetic of one number and of vectors, as onnxruntime asks for it (arm64's uapi/asm/hwcap.h).
bool has_float16() {
#if defined(__aarch64__) && defined(__linux__)
  constexpr unsigned long fphp_asimdhp = 1UL << 9 | 1UL << 10;
  return (getauxval(AT_HWCAP) & fphp_asimdhp) == fphp_asimdhp;
#else
  return false;
#endif
}

bool suits(const Json& entry) {
  for (const auto& word : entry.at("requires")) {
    if (word != "fp16" || !has_float16()) return false;
  }
  return true;
}

State read_state(const Json& entry, std::int64_t context) {
  State state{entry.at("input"), entry.at("output"), {}, false, false, 0};
  const std::string type = entry.at("type"), kind = entry.at("kind");
  if (type != "float32" && type != "float16") throw InputError("state " + state.input + " is of type " + type + ", which is not supported");
  state.half = type == "float16";
  state.in_place = kind == "key-value" || kind == "window";
  std::int64_t count = 1;
  for (const auto& axis : entry.at("shape")) {
    std::int64_t size = 1;  // of a batch
    if (axis.is_number()) size = axis;
    else if (axis == "past") size = context;
    else if (axis == "window") size = entry.at("window").get<std::int64_t>() + kWindowSlack;
    state.shape.push_back(size);
    count *= size;
  }
  state.bytes = static_cast<std::size_t>(count) * (state.half ? 2 : 4);
  return state;
}

std::int64_t checked_context(std::int64_t asked, std::int64_t usual, std::int64_t most) {
  if (asked > most) throw InputError("context is " + std::to_string(asked) + "; the model allows at most " + std::to_string(most));
  return asked > 0 ? asked : std::min(usual, most);
}

}  // namespace

Bundle read_bundle(const fs::path& folder, std::int64_t context, const std::string& graph) try {
  const Json manifest = read_json(folder / "manifest.json"), genai = read_json(folder / "genai_config.json");
  const Json& model = genai.at("model");
  Bundle bundle;
  bundle.vocabulary = model.at("vocab_size");
  const std::int64_t most = model.at("context_length");
  bundle.context = checked_context(context, genai.value("search", Json::object()).value("max_length", most), most);
  const Json& end = model.value("eos_token_id", Json());
  if (end.is_array()) bundle.ends = end.get<std::vector<std::int64_t>>();
  else if (end.is_number()) bundle.ends = {end.get<std::int64_t>()};
  if (const auto found = manifest.find("long_from"); found != manifest.end() && !found->is_null()) bundle.long_from = *found;

  Json states = manifest.at("states");
  bundle.graph = model.at("decoder").at("filename");
  const Json graphs = manifest.value("graphs", Json::array());
  if (!graph.empty() && graphs.empty() && graph != bundle.graph) throw InputError(folder.string() + " has no graph " + graph);
  if (!graphs.empty()) {
    const auto chosen = std::find_if(graphs.begin(), graphs.end(), [&](const Json& entry) {
      return graph.empty() ? suits(entry) : entry.at("file") == graph;
    });
    if (chosen == graphs.end()) throw InputError(folder.string() + " has no graph " + (graph.empty() ? "for this processor" : graph));
    bundle.graph = chosen->at("file");
    states = chosen->at("states");
  }
  bundle.model = folder / bundle.graph;
  for (const auto& entry : states) bundle.states.push_back(read_state(entry, bundle.context));
  return bundle;
} catch (const Json::exception& error) {
  throw InputError(folder.string() + " is not a bundle that this program reads: " + error.what());
}

}  // namespace edgepress
