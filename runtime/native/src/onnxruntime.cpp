#include "onnxruntime.hpp"

#include <dlfcn.h>

#include "error.hpp"

namespace edgepress {
namespace {

const OrtApi* opened = nullptr;
std::string version;

}  // namespace

void open_onnxruntime(const std::string& library) {
  void* handle = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) throw InputError("onnxruntime cannot be opened: " + std::string(dlerror()) + "; give its library by --onnxruntime FILE");
  using GetBase = const OrtApiBase* (*)();
  const auto get_base = reinterpret_cast<GetBase>(dlsym(handle, "OrtGetApiBase"));
  if (get_base == nullptr) throw InputError(library + " is no library of onnxruntime");
  const OrtApiBase* base = get_base();
  version = base->GetVersionString();
  opened = base->GetApi(ORT_API_VERSION);
  if (opened == nullptr) throw InputError("onnxruntime " + version + " is older than the header that this program was compiled with");
}

const OrtApi& api() { return *opened; }

std::string onnxruntime_version() { return version; }

void check(OrtStatus* status, const std::string& what) {
  if (status == nullptr) return;
  const std::string words = api().GetErrorMessage(status);
  api().ReleaseStatus(status);
  throw InputError(what + ": " + words);
}

}  // namespace edgepress
