#include "memory.hpp"

#include <fstream>
#include <sstream>

namespace edgepress {
namespace {

// Bytes of a line such as "VmHWM:   1234 kB".
void add(const char* path, const std::map<std::string, std::string>& wanted, std::map<std::string, long>& found) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    const auto colon = line.find(':');
    if (colon == std::string::npos) continue;
    const auto name = wanted.find(line.substr(0, colon));
    if (name == wanted.end()) continue;
    long kilobytes = 0;
    if (std::istringstream(line.substr(colon + 1)) >> kilobytes) found[name->second] = kilobytes * 1024;
  }
}

}  // namespace

std::map<std::string, long> read_memory() {
  std::map<std::string, long> found;
  add("/proc/self/smaps_rollup", {{"Rss", "rss_bytes"}, {"Pss", "pss_bytes"}, {"Anonymous", "anonymous_bytes"}}, found);
  add("/proc/self/status", {{"VmHWM", "peak_rss_bytes"}}, found);
  return found;
}

}  // namespace edgepress
