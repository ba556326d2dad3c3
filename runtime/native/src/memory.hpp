// Memory of this process, as Linux counts it.
#pragma once

#include <map>
#include <string>

namespace edgepress {

// Bytes by name: rss_bytes, pss_bytes, anonymous_bytes, peak_rss_bytes; those that the system tells.
std::map<std::string, long> read_memory();

}  // namespace edgepress
