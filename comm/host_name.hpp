// What this machine calls itself, for messages and to tell which ranks share it.
//
// Not for: addresses (rendezvous.hpp).
#pragma once

#include <string>

namespace nibble {

std::string host_name();

}  // namespace nibble
