// A library that is looked for when the program runs, so that the program starts where nobody has installed it.
//
//   class Nccl : public SharedLibrary {
//     ...
//     decltype(&ncclSend) send = find<decltype(&ncclSend)>("ncclSend");
//   };
//
// Not for: libraries that are always there, which are linked.
#pragma once

#include <dlfcn.h>

#include <string>

namespace nibble {

class SharedLibrary {
 public:
  SharedLibrary(const SharedLibrary&) = delete;
  SharedLibrary& operator=(const SharedLibrary&) = delete;

  /// What there is not: the library, or a function of it, as the loader says it; empty where all is there.
  const std::string& missing() const { return missing_; }

 protected:
  /// Loads it for as long as the process lives. `name` as the loader finds it: "libnccl.so.2".
  explicit SharedLibrary(const char* name) : name_(name), handle_(dlopen(name, RTLD_NOW | RTLD_LOCAL)) {}
  ~SharedLibrary() = default;

  /// Null where there is no such function.
  template <class Function>
  Function find(const char* function) {
    void* const found = handle_ ? dlsym(handle_, function) : nullptr;
    if (!found && missing_.empty()) missing_ = handle_ ? std::string(name_) + " is too old: no " + function : dlerror();
    return reinterpret_cast<Function>(found);
  }

 private:
  const char* name_;
  void* handle_;
  std::string missing_;
};

}  // namespace nibble
