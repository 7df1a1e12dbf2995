#include "tensor/error.hpp"

#include <utility>

namespace nibble {

const char* name(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::configuration:
      return "configuration";
    case ErrorKind::data:
      return "data";
    case ErrorKind::checkpoint:
      return "checkpoint";
    case ErrorKind::communication:
      return "communication";
    case ErrorKind::numerics:
      return "numerics";
    case ErrorKind::resource:
      return "resource";
    case ErrorKind::internal:
      return "internal";
  }
  return "internal";
}

Error::Error(ErrorDetail detail) : detail_(std::move(detail)) {
  message_ = std::string(name(detail_.kind)) + " error: " + detail_.what;
  const std::pair<const char*, const std::string&> lines[] = {{"where:   ", detail_.where},
                                                              {"seen:    ", detail_.seen},
                                                              {"allowed: ", detail_.allowed},
                                                              {"next:    ", detail_.next}};
  for (const auto& [label, text] : lines)
    if (!text.empty()) message_ += std::string("\n  ") + label + text;
}

}  // namespace nibble
