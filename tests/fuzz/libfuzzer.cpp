// The driver of libFuzzer's targets, one for each reader (NIBBLE_FUZZ in CMake).
#include "tests/fuzz/readers.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const nibble::fuzz::Reader& reader = nibble::fuzz::find_reader(NIBBLE_FUZZ_READER);
  nibble::fuzz::fuzz_one(reader, {data, size});
  return 0;
}
