#include "tensor/tensor.hpp"

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>

#include "tensor/error.hpp"

namespace nibble {

Buffer::Buffer(size_t bytes, const std::string& purpose) : bytes_(bytes) {
  if (bytes == 0) return;
  constexpr size_t huge_page = size_t{2} << 20;
  const size_t align = bytes >= 4 * huge_page ? huge_page : alignment;
  const size_t rounded = (bytes + align - 1) / align * align;
  memory_.reset(std::aligned_alloc(align, rounded));
  if (!memory_)
    throw Error({.kind = ErrorKind::resource,
                 .what = "no memory left" + (purpose.empty() ? std::string() : " for " + purpose),
                 .seen = std::to_string(bytes >> 20) + " MiB asked for",
                 .next = "lower batch.micro or data.sequence, or set model.recompute: block"});
  if (align == huge_page) madvise(memory_.get(), rounded, MADV_HUGEPAGE);  // a hint: failure costs speed only
  std::memset(memory_.get(), 0, bytes);
}

void Buffer::Free::operator()(void* pointer) const { std::free(pointer); }

}  // namespace nibble
