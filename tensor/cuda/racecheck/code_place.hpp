// Where in the sources an address of this program's code stands.
#pragma once

#include <cstdint>
#include <string>

namespace nibble::cuda::racecheck {

/// An address of the program as it was linked, which fits 32 bits; never 0 for one of code.
uint32_t linked_address(const void* code);
bool in_program(const volatile void* address);

/// "function at file:line", of addr2line; and where that was inlined into others, these. Just the number where there is
/// no addr2line.
std::string code_place(uint32_t address);
/// The function that begins there.
std::string function_name(uint32_t address);

}  // namespace nibble::cuda::racecheck
