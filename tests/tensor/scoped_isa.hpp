// The instruction set of the Streams that a scope makes, for tests that compare two.
#pragma once

#include <cstdlib>
#include <optional>
#include <string>

namespace nibble {

/// Sets NIBBLE_ISA, and puts back what was there: all of a test program may run under it (tests/CMakeLists.txt).
class ScopedIsa {
 public:
  explicit ScopedIsa(const char* name) {
    if (const char* before = std::getenv("NIBBLE_ISA")) before_ = before;
    setenv("NIBBLE_ISA", name, 1);
  }
  ~ScopedIsa() {
    if (before_) setenv("NIBBLE_ISA", before_->c_str(), 1);
    else unsetenv("NIBBLE_ISA");
  }
  ScopedIsa(const ScopedIsa&) = delete;
  ScopedIsa& operator=(const ScopedIsa&) = delete;

 private:
  std::optional<std::string> before_;
};

}  // namespace nibble
