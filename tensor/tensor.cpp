#include "tensor/tensor.hpp"

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>

#include "tensor/cuda/device.hpp"
#include "tensor/error.hpp"
#include "tensor/imagined_device.hpp"

namespace nibble {
namespace {

constexpr size_t huge_page = size_t{2} << 20;

/// Zero pages on a huge page's boundary; null if the system refuses. `bytes` is a multiple of a huge page.
/// MAP_NORESERVE: what a run needs is weighed as a whole (trainer/memory.hpp), so that the answer is a table; the
/// kernel would refuse single mappings, and let the sum of many pass.
void* map_zeros(size_t bytes) {
  void* mapping =
      mmap(nullptr, bytes + huge_page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapping == MAP_FAILED) return nullptr;
  char* const begin = static_cast<char*>(mapping);
  const size_t before = (huge_page - reinterpret_cast<uintptr_t>(begin) % huge_page) % huge_page;
  if (before > 0) munmap(begin, before);
  munmap(begin + before + bytes, huge_page - before);
  madvise(begin + before, bytes, MADV_HUGEPAGE);  // a hint: failure costs speed only
  return begin + before;
}

}  // namespace

size_t bytes_of(DType type, int64_t rows, int64_t cols) {
  int64_t elements = 0;
  constexpr int64_t largest = int64_t{1} << 48;
  if (rows < 0 || cols < 0 || __builtin_mul_overflow(rows, cols, &elements) || elements > largest)
    throw Error({.kind = ErrorKind::resource,
                 .what = "a tensor larger than any memory",
                 .seen = std::to_string(rows) + " x " + std::to_string(cols) + " elements"});
  return static_cast<size_t>(elements) * size_of(type);
}

Buffer::Buffer(size_t bytes, const std::string& purpose, Place place) : bytes_(bytes) {
  if (bytes == 0) return;
  MemoryAccount& account = memory_account(purpose, place);
  if (place == Place::device && imagined_device()) {
    void* const addresses = imagined_memory(bytes);
    if (!addresses)
      throw Error({.kind = ErrorKind::resource,
                   .what = "no addresses left for " + purpose,
                   .seen = std::to_string(bytes >> 20) + " MiB asked for"});
    memory_ = {addresses, Free{bytes, Source::mapping, &account}};
    account += bytes;
    return;
  }
  if (place == Place::device) {
    memory_ = {cuda::allocate(bytes), Free{bytes, Source::device, &account}};
    account += bytes;
    return;
  }
  // From 8 MiB on, so that rounding up to huge pages wastes little.
  const bool mapped = bytes >= 4 * huge_page;
  const size_t unit = mapped ? huge_page : alignment;
  void* memory = nullptr;
  size_t reserved = 0;
  if (bytes <= SIZE_MAX - 2 * unit) {
    reserved = (bytes + unit - 1) / unit * unit;
    memory = mapped ? map_zeros(reserved) : std::aligned_alloc(alignment, reserved);
  }
  if (!memory)
    throw Error({.kind = ErrorKind::resource,
                 .what = "no memory left" + (purpose.empty() ? std::string() : " for " + purpose),
                 .seen = std::to_string(bytes >> 20) + " MiB asked for"});
  if (!mapped) std::memset(memory, 0, reserved);
  account += reserved;
  memory_ = {memory, Free{reserved, mapped ? Source::mapping : Source::heap, &account}};
}

void Buffer::Free::operator()(void* pointer) const {
  *account -= reserved;
  switch (source) {
    case Source::heap:
      return std::free(pointer);
    case Source::mapping:
      munmap(pointer, reserved);
      return;
    case Source::device:
      cuda::release(pointer);
  }
}

}  // namespace nibble
