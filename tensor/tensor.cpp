#include "tensor/tensor.hpp"

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>

#include "tensor/error.hpp"

namespace nibble {

size_t bytes_of(DType type, int64_t rows, int64_t cols) {
  int64_t elements = 0;
  constexpr int64_t largest = int64_t{1} << 48;
  if (rows < 0 || cols < 0 || __builtin_mul_overflow(rows, cols, &elements) || elements > largest)
    throw Error({.kind = ErrorKind::resource,
                 .what = "a tensor larger than any memory",
                 .seen = std::to_string(rows) + " x " + std::to_string(cols) + " elements"});
  return static_cast<size_t>(elements) * size_of(type);
}

Buffer::Buffer(size_t bytes, const std::string& purpose) : bytes_(bytes) {
  if (bytes == 0) return;
  constexpr size_t huge_page = size_t{2} << 20;
  const size_t align = bytes >= 4 * huge_page ? huge_page : alignment;
  const size_t rounded = (bytes + align - 1) / align * align;
  memory_.reset(std::aligned_alloc(align, rounded));
  if (!memory_)
    throw Error({.kind = ErrorKind::resource,
                 .what = "no memory left" + (purpose.empty() ? std::string() : " for " + purpose),
                 .seen = std::to_string(bytes >> 20) + " MiB asked for"});
  if (align == huge_page) madvise(memory_.get(), rounded, MADV_HUGEPAGE);  // a hint: failure costs speed only
  std::memset(memory_.get(), 0, bytes);
}

void Buffer::Free::operator()(void* pointer) const { std::free(pointer); }

}  // namespace nibble
