// An environment variable for a scope: the instruction set of the Streams that it makes, the GEMM that it calls.
#pragma once

#include <cstdlib>
#include <optional>
#include <string>

namespace nibble {

/// Sets `name`, and puts back what was there: all of a test program may run under it (tests/CMakeLists.txt).
class ScopedEnvironment {
 public:
  ScopedEnvironment(const char* name, const char* value) : name_(name) {
    if (const char* before = std::getenv(name)) before_ = before;
    setenv(name, value, 1);
  }
  ~ScopedEnvironment() {
    if (before_) setenv(name_, before_->c_str(), 1);
    else unsetenv(name_);
  }
  ScopedEnvironment(const ScopedEnvironment&) = delete;
  ScopedEnvironment& operator=(const ScopedEnvironment&) = delete;

 private:
  const char* name_;
  std::optional<std::string> before_;
};

}  // namespace nibble
