// A bundle's graph with the memory that it reads and writes: tokens in, the likeliest next token out.
#pragma once

#include <cstdint>
#include <vector>

#include "bundle.hpp"
#include "onnxruntime.hpp"

namespace edgepress {

class Decoder {
 public:
  // InputError: the graph cannot be opened.
  Decoder(const Bundle& bundle, int threads, std::int64_t chunk);

  // Begins a text.
  void reset();

  // Appends tokens, chunk by chunk, and returns the likeliest token after them.
  // InputError: a token is not in the vocabulary, or they do not fit in the context.
  std::int64_t append(const std::vector<std::int64_t>& tokens);

 private:
  struct Memory {
    const State* state;
    std::vector<std::byte> kept, given;  // given: what a call gives back, of states of fixed size
    Value input, output;
  };

  void run(const std::int64_t* tokens, std::int64_t count);
  void bind(const char* name, const Value& value, bool output);
  Value tensor(void* data, std::size_t bytes, const std::vector<std::int64_t>& shape, ONNXTensorElementDataType type);

  const Bundle& bundle_;
  std::int64_t chunk_, position_ = 0;
  Env env_;
  MemoryInfo cpu_;
  std::int64_t logits_start_ = -1, long_from_ = 0;  // read by the graph in the place of its initializers
  Value logits_start_value_, long_from_value_;
  Session session_;
  Binding binding_;
  std::vector<Memory> states_;
  std::vector<std::int64_t> tokens_, mask_;
  std::vector<float> logits_;
  Value logits_value_;
};

}  // namespace edgepress
