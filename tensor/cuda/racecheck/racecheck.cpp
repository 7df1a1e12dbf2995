#include "tensor/cuda/racecheck/racecheck.hpp"

#include <fmt/format.h>
#include <link.h>

#include <cstdio>
#include <set>
#include <span>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "tensor/cuda/emulation/launch.hpp"
#include "tensor/cuda/emulation/watch.hpp"
#include "tensor/cuda/racecheck/code_place.hpp"
#include "tensor/cuda/racecheck/shadow.hpp"
#include "tensor/error.hpp"

namespace nibble::cuda {
namespace racecheck {
namespace {

using emulation::Turn;
using Bytes = std::span<const std::byte>;

enum class Place { own, block, device, nowhere };

struct Finding {
  std::string what;
  uintptr_t address;
  std::string seen;
};

bool holds(Bytes memory, uintptr_t at, size_t bytes = 1) {
  const auto begin = reinterpret_cast<uintptr_t>(memory.data());
  return at >= begin && at + bytes <= begin + memory.size();
}
template <class T>
Bytes bytes_of(const T& object) {
  return std::as_bytes(std::span(&object, 1));
}

/// Where a host thread has this program's thread_local variables: what is __shared__ stands there.
Bytes thread_locals() {
  thread_local const Bytes own = [] {
    Bytes found;
    dl_iterate_phdr(
        [](dl_phdr_info* info, size_t, void* out) {
          for (size_t i = 0; i < info->dlpi_phnum; ++i)
            if (info->dlpi_phdr[i].p_type == PT_TLS && info->dlpi_tls_data)
              *static_cast<Bytes*>(out) = {static_cast<const std::byte*>(info->dlpi_tls_data),
                                           info->dlpi_phdr[i].p_memsz};
          return 1;  // the program comes first
        },
        &found);
    return found;
  }();
  return own;
}

/// What is known of the grid that runs. One grid runs at a time, on one host thread.
struct Grid {
  uint32_t kernel = 0;
  unsigned block = 0;  ///< that block_memory is about
  bool has_block = false;
  Shadow device_memory, block_memory;
  Bytes allocation;  ///< of the last access
  std::set<std::tuple<std::string, uint32_t, uint32_t>> known;
  std::vector<Finding> findings;
};

Grid& grid() {
  static Grid only;
  return only;
}

thread_local Turn* turn = nullptr;
/// While it works: its own functions may be those that the compiler made for kernels.
thread_local bool busy = false;

class Busy {
 public:
  Busy() { busy = true; }
  ~Busy() { busy = false; }
  Busy(const Busy&) = delete;
  Busy& operator=(const Busy&) = delete;
};

bool is_watched() { return turn && turn->in_kernel && !busy; }

Place place_of(uintptr_t at, size_t bytes, Kind kind) {
  if (holds(turn->stack, at)) return Place::own;
  if (holds(grid().allocation, at, bytes)) return Place::device;
  if (holds(turn->block_memory, at, bytes)) return Place::block;
  if (holds(turn->slots, at)) return Place::own;
  if (holds(thread_locals(), at)) {
    const bool of_the_emulation = holds(bytes_of(emulation::position), at) ||
                                  holds(bytes_of(emulation::block_size), at) ||
                                  holds(bytes_of(emulation::grid_size), at);
    return of_the_emulation ? Place::own : Place::block;
  }
  if (kind == Kind::read && in_program(reinterpret_cast<const void*>(at))) return Place::own;  // constants
  const Bytes found = emulation::allocation_at(reinterpret_cast<const void*>(at));
  if (!holds(found, at, bytes)) return Place::nowhere;
  grid().allocation = found;
  return Place::device;
}

const char* verb(Kind kind) {
  return kind == Kind::read ? "reads" : kind == Kind::write ? "writes" : "changes by an atomic operation";
}

std::string position_text(unsigned block, unsigned thread) {
  const dim3 &grid = emulation::grid_size, &size = emulation::block_size;
  return fmt::format("thread ({}, {}, {}) of block ({}, {}, {})", thread % size.x, thread / size.x % size.y,
                     thread / size.x / size.y, block % grid.x, block / grid.x % grid.y, block / grid.x / grid.y);
}

/// The running thread at its present place, and how it came there.
std::string present_text(uint32_t code) {
  std::string text = fmt::format("{} in {}", position_text(turn->block, turn->thread), code_place(code));
  for (auto call = turn->calls.rbegin(); call != turn->calls.rend() && call + 1 != turn->calls.rend(); ++call)
    text += ", called by " + code_place(linked_address(reinterpret_cast<const void*>(*call)));
  return text;
}

/// Once for each place in the code, and each that it is in conflict with; said at once, for the process may end of it.
template <class Text>
void find(std::string what, uintptr_t address, uint32_t code, uint32_t other, const Text& seen) {
  if (!grid().known.emplace(what, code, other).second) return;
  const Finding& found = grid().findings.emplace_back(Finding{std::move(what), address, seen()});
  fmt::print(stderr, "racecheck: {}: {} ({:#x}): {}\n", function_name(grid().kernel), found.what, found.address,
             found.seen);
}

void check_order(Shadow& shadow, bool of_block, const volatile void* address, size_t bytes, Kind kind, uint32_t code) {
  const Access now{.block = turn->block,
                   .thread = static_cast<uint16_t>(turn->thread),
                   .phase = static_cast<uint16_t>(turn->phase),
                   .warp_phase = static_cast<uint16_t>(turn->warp_phase),
                   .atomic = kind == Kind::atomic,
                   .code = code};
  const Shadow::Seen seen = shadow.add(reinterpret_cast<uintptr_t>(address), bytes, now, kind != Kind::read);
  if (const Access& before = seen.before; before.is())
    find(fmt::format("two threads touch the same byte of {} memory in no order, and one writes",
                     of_block ? "a block's" : "the device's"),
         seen.address, code, before.code, [&] {
           return fmt::format("{}, which {}; {} in {}", present_text(code), verb(kind),
                              position_text(before.block, before.thread), code_place(before.code));
         });
  if (of_block && seen.unwritten)
    find("a thread reads of a block's memory what its block never wrote", seen.address, code, 0,
         [&] { return present_text(code); });
}

}  // namespace

void enter(const void* called_at) {
  if (!is_watched()) return;
  const Busy own;
  turn->calls.push_back(reinterpret_cast<uintptr_t>(called_at));
}
void leave() {
  if (is_watched() && !turn->calls.empty()) turn->calls.pop_back();
}

void touch(const volatile void* address, size_t bytes, Kind kind, const void* code) {
  if (!is_watched() || bytes == 0) return;
  const Busy own;
  const auto at = reinterpret_cast<uintptr_t>(address);
  const uint32_t where = linked_address(code);
  switch (place_of(at, bytes, kind)) {
    case Place::own:
      return;
    case Place::nowhere:
      return find(fmt::format("a thread {} bytes that are no memory of the device", verb(kind)), at, where, 0,
                  [&] { return present_text(where); });
    case Place::device:
      return check_order(grid().device_memory, false, address, bytes, kind, where);
    case Place::block:
      if (!grid().has_block || grid().block != turn->block) {
        grid().block_memory.begin();
        grid().block = turn->block;
        grid().has_block = true;
      }
      return check_order(grid().block_memory, true, address, bytes, kind, where);
  }
}

void misaligned(uintptr_t address, size_t alignment, const char* type, const void* code) {
  if (!is_watched()) return;
  const Busy own;
  const uint32_t where = linked_address(code);
  find(fmt::format("a thread uses an address that is no multiple of {} as one of {}", alignment, type), address, where,
       0, [&] { return present_text(where); });
}

void no_such_element(uint64_t index, const char* array, const void* code) {
  if (!is_watched()) return;
  const Busy own;
  const uint32_t where = linked_address(code);
  find(fmt::format("a thread asks {} for an element that it does not have", array), index, where, 0,
       [&] { return present_text(where); });
}

}  // namespace racecheck

namespace emulation {

using racecheck::grid;
using racecheck::Kind;

void watch_grid(const void* kernel) {
  const racecheck::Busy own;
  grid().kernel = racecheck::linked_address(kernel);
  grid().has_block = false;
  grid().device_memory.begin();
  grid().allocation = {};
  grid().known.clear();
  grid().findings.clear();
}

void judge_grid() {
  const auto& findings = grid().findings;
  if (findings.empty()) return;
  constexpr size_t most = 8;
  std::string seen;
  for (size_t i = 0; i < findings.size() && i < most; ++i)
    seen += fmt::format("\n{}. {} ({:#x}): {}", i + 1, findings[i].what, findings[i].address, findings[i].seen);
  throw Error(
      {.kind = ErrorKind::internal,
       .what = fmt::format("a kernel does what a GPU punishes, in {} places", findings.size()),
       .where = racecheck::function_name(grid().kernel),
       .seen = seen,
       .next = "put a barrier between the accesses, or give each thread its own; for bounds, see who allocated"});
}

void watch_turn(Turn* running) { racecheck::turn = running; }

void watch_copy(const void* to, const void* from, size_t bytes) {
  const void* const code = __builtin_return_address(0);
  if (from) racecheck::touch(from, bytes, Kind::read, code);
  racecheck::touch(to, bytes, Kind::write, code);
}

}  // namespace emulation
}  // namespace nibble::cuda
