// What a bundle says of itself: its graphs in the order of preference, and the states that each carries.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace edgepress {

// A tensor that a call reads (input) and gives back (output); see src/edgepress/states.py.
struct State {
  std::string input, output;
  std::vector<std::int64_t> shape;  // for one text of the context's length
  bool half;                        // float16, else float32
  bool in_place;                    // key-value and window: input and output are one memory
  std::size_t bytes;
};

struct Bundle {
  std::filesystem::path model;  // the graph that runs on this processor
  std::string graph;            // its file
  std::int64_t vocabulary, context;
  std::vector<std::int64_t> ends;  // tokens that end a text
  std::vector<State> states;
  std::optional<std::int64_t> long_from;  // the length beyond which a longrope model uses other frequencies
};

// Read manifest.json and genai_config.json. context 0 is the bundle's own default; graph "" the first that suits.
// InputError: no bundle of ours, no such graph, or a context that the model does not have.
Bundle read_bundle(const std::filesystem::path& folder, std::int64_t context, const std::string& graph);

}  // namespace edgepress
