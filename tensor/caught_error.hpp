// Whatever was thrown, as the one exception type of Nibble.
//
// Not for handlers that know what they catch.
#pragma once

#include "tensor/error.hpp"

namespace nibble {

/// Inside a handler: the exception that it handles. Memory and files that the library could not get are
/// Error{resource}; what nobody foresaw is Error{internal}.
Error caught_error();

}  // namespace nibble
