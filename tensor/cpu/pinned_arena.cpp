#include "tensor/pinned_arena.hpp"

#include <sys/mman.h>

#include <cstring>

#include "tensor/error.hpp"
#include "tensor/imagined_device.hpp"

namespace nibble {

void PinnedArena::Release::operator()(void* memory) const {
  *account -= bytes;
  if (imagined) munmap(memory, bytes);
  else cuda::release_pinned(memory);
}

void PinnedArena::allocate(size_t bytes, const std::string& purpose) {
  if (bytes == 0) return;
  const bool imagined = imagined_device() != nullptr;
  void* const memory = imagined ? imagined_memory(bytes) : cuda::allocate_pinned(bytes);
  if (!memory)
    throw Error({.kind = ErrorKind::resource,
                 .what = "no pinned memory left for " + purpose,
                 .seen = std::to_string(bytes >> 20) + " MiB asked for"});
  MemoryAccount& account = memory_account(purpose);
  account += bytes;
  memory_ = {memory, Release{bytes, imagined, &account}};
  if (!imagined) std::memset(memory, 0, bytes);
}

}  // namespace nibble
