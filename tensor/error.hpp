// The one exception type of Nibble, classed by who must act.
//
// Every message says what went wrong, where, the value seen, the values allowed, and what to try next.
// Not for: programmer errors inside a function (assert) and not for control flow.
#pragma once

#include <exception>
#include <string>

namespace nibble {

/// Who must act; the value is the exit code of the program.
enum class ErrorKind : int {
  configuration = 2,  ///< the YAML file, an option or the environment: the user edits it
  data = 3,           ///< text, tokens, a tokenizer: the user fetches or makes another
  checkpoint = 4,     ///< a checkpoint or model file: the user picks another
  communication = 5,  ///< a rank, a link, a launcher
  numerics = 6,       ///< the run diverged
  resource = 7,       ///< memory, disk, device
  internal = 70,      ///< a defect of Nibble
};

/// Exit codes that are no errors.
inline constexpr int exit_interrupted = 130;  ///< interrupted, state saved
inline constexpr int exit_requeue = 75;       ///< a launcher asked to end, state saved: start it again

const char* name(ErrorKind kind);

/// What an error says; empty fields are left out of the message.
struct ErrorDetail {
  ErrorKind kind = ErrorKind::internal;
  std::string what;       ///< one clause: what went wrong
  std::string where{};    ///< file, line, key, tensor
  std::string seen{};     ///< the offending value
  std::string allowed{};  ///< the values that would have been accepted
  std::string next{};     ///< the next step for the person who must act
};

class Error : public std::exception {
 public:
  explicit Error(ErrorDetail detail);

  const char* what() const noexcept override { return message_.c_str(); }
  const ErrorDetail& detail() const { return detail_; }
  ErrorKind kind() const { return detail_.kind; }
  int exit_code() const { return static_cast<int>(detail_.kind); }

 private:
  ErrorDetail detail_;
  std::string message_;
};

}  // namespace nibble
