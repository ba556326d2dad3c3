// What a user can do something about: one line, exit code 2.
#pragma once

#include <stdexcept>

namespace edgepress {

struct InputError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

}  // namespace edgepress
