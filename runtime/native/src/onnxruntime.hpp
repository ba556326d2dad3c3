// onnxruntime's C interface, from a library that is opened when the program runs.
#pragma once

#include <memory>
#include <string>

#include <onnxruntime_c_api.h>

namespace edgepress {

// Opens the library, once, before anything else is asked of it. InputError: there is no such library, or it is older
// than the header that this program was compiled with.
void open_onnxruntime(const std::string& library);

const OrtApi& api();
std::string onnxruntime_version();

// InputError with onnxruntime's own words when a call failed.
void check(OrtStatus* status, const std::string& what);

template <typename T, void (*OrtApi::*Release)(T*)>
struct Releaser {
  void operator()(T* value) const { (api().*Release)(value); }
};

// What onnxruntime gave and takes back.
using Env = std::unique_ptr<OrtEnv, Releaser<OrtEnv, &OrtApi::ReleaseEnv>>;
using Options = std::unique_ptr<OrtSessionOptions, Releaser<OrtSessionOptions, &OrtApi::ReleaseSessionOptions>>;
using Session = std::unique_ptr<OrtSession, Releaser<OrtSession, &OrtApi::ReleaseSession>>;
using Binding = std::unique_ptr<OrtIoBinding, Releaser<OrtIoBinding, &OrtApi::ReleaseIoBinding>>;
using Value = std::unique_ptr<OrtValue, Releaser<OrtValue, &OrtApi::ReleaseValue>>;
using MemoryInfo = std::unique_ptr<OrtMemoryInfo, Releaser<OrtMemoryInfo, &OrtApi::ReleaseMemoryInfo>>;

}  // namespace edgepress
