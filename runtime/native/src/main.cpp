// edgepress-native BUNDLE --tokens 1,2,3: continue token ids greedily, and say as JSON how long it took and in what memory.
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include <nlohmann/json.hpp>

#include "bundle.hpp"
#include "decoder.hpp"
#include "error.hpp"
#include "memory.hpp"

namespace {

using edgepress::InputError;
using Clock = std::chrono::steady_clock;

constexpr int kSchema = 1;
constexpr const char* kUsage =
    "usage: edgepress-native BUNDLE --tokens 1,2,3 [--decode N] [--turns N] [--threads N] [--context N] [--chunk N]\n"
    "                        [--graph FILE] [--onnxruntime FILE]\n"
    "Continues the token ids greedily N times (--turns) by N tokens each (--decode), and prints what it measured as JSON.\n";

struct Arguments {
  std::string bundle, graph, library = "libonnxruntime.so";
  std::vector<std::int64_t> tokens;
  long decode = 32, turns = 1, threads = 0, context = 0, chunk = 128;
};

long number(const std::string& name, const std::string& text, long least) {
  std::size_t used = 0;
  long value = 0;
  try {
    value = std::stol(text, &used);
  } catch (const std::exception&) {
    used = 0;
  }
  if (used == 0 || used != text.size() || value < least) throw InputError(name + " is '" + text + "'; it must be a whole number of at least " + std::to_string(least));
  return value;
}

Arguments parse(int count, char** words) {
  Arguments found;
  for (int index = 1; index < count; ++index) {
    const std::string word = words[index];
    if (word == "--help" || word == "-h") {
      std::cout << kUsage;
      std::exit(0);
    }
    if (word.rfind("--", 0) != 0) {
      if (!found.bundle.empty()) throw InputError("there are two bundles, " + found.bundle + " and " + word);
      found.bundle = word;
      continue;
    }
    if (index + 1 == count) throw InputError(word + " has no value");
    const std::string value = words[++index];
    if (word == "--tokens") {
      std::istringstream list(value);
      for (std::string token; std::getline(list, token, ',');) found.tokens.push_back(number("a token", token, 0));
    } else if (word == "--decode") found.decode = number(word, value, 0);
    else if (word == "--turns") found.turns = number(word, value, 1);
    else if (word == "--threads") found.threads = number(word, value, 1);
    else if (word == "--context") found.context = number(word, value, 1);
    else if (word == "--chunk") found.chunk = number(word, value, 1);
    else if (word == "--graph") found.graph = value;
    else if (word == "--onnxruntime") found.library = value;
    else throw InputError("there is no option " + word + "\n" + kUsage);
  }
  if (found.bundle.empty() || found.tokens.empty()) throw InputError(std::string("a bundle and --tokens are needed\n") + kUsage);
  return found;
}

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

nlohmann::json measure(const Arguments& arguments) {
  nlohmann::json memory, first = nlohmann::json::array(), steps = nlohmann::json::array();
  memory["before load"] = edgepress::read_memory();
  auto start = Clock::now();
  edgepress::open_onnxruntime(arguments.library);
  const edgepress::Bundle bundle = edgepress::read_bundle(arguments.bundle, arguments.context, arguments.graph);
  const int threads = arguments.threads > 0 ? static_cast<int>(arguments.threads) : static_cast<int>(std::thread::hardware_concurrency());
  edgepress::Decoder decoder(bundle, threads, arguments.chunk);
  const double load = seconds_since(start);
  memory["loaded"] = edgepress::read_memory();
  std::vector<std::int64_t> text;
  for (long turn = 0; turn < arguments.turns; ++turn) {
    text.clear();
    decoder.reset();
    start = Clock::now();
    std::int64_t token = decoder.append(arguments.tokens);
    first.push_back(seconds_since(start));
    if (turn == 0) memory["prefilled"] = edgepress::read_memory();
    std::vector<double> taken;
    for (long step = 0; step < arguments.decode; ++step) {
      text.push_back(token);
      start = Clock::now();
      token = decoder.append({token});
      taken.push_back(seconds_since(start));
    }
    steps.push_back(taken);
  }
  memory["decoded"] = edgepress::read_memory();
  return {{"schema", kSchema}, {"bundle", arguments.bundle}, {"graph", bundle.graph}, {"onnxruntime", edgepress::onnxruntime_version()},
          {"threads", threads}, {"context", bundle.context}, {"prompt_tokens", arguments.tokens.size()}, {"tokens", text},
          {"load_seconds", load}, {"ttft_seconds", first}, {"step_seconds", steps}, {"memory", memory}};
}

}  // namespace

int main(int count, char** words) {
  setenv("ORT_DISABLE_TELEMETRY", "1", 0);  // before the library is opened, which reads it then
  try {
    std::cout << measure(parse(count, words)).dump(2) << '\n';
    return 0;
  } catch (const InputError& error) {
    std::cerr << "edgepress-native: " << error.what() << '\n';
    return 2;
  } catch (const std::bad_alloc&) {
    std::cerr << "edgepress-native: memory is not enough; give a shorter --context\n";
    return 2;
  }
}
