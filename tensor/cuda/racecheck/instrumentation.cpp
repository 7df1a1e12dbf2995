// What the compiler calls from kernels: before each access, as with -fsanitize=thread (the interface is that of LLVM's
// compiler-rt, lib/tsan/rtl/tsan_interface.h and tsan_interface_atomic.h), and where an address has the wrong alignment
// or an array no such element, as with -fsanitize=alignment,bounds (lib/ubsan/ubsan_handlers.h). The sanitizers'
// libraries are not linked.
#include <atomic>
#include <cstdint>

#include "tensor/cuda/racecheck/racecheck.hpp"

namespace {

using nibble::cuda::racecheck::Kind;
using nibble::cuda::racecheck::touch;

struct SourceLocation {
  const char* file;
  uint32_t line, column;
};
struct TypeDescriptor {
  uint16_t kind, information;
  char name[1];  ///< in quotation marks
};
struct TypeMismatch {
  SourceLocation location;
  const TypeDescriptor* type;
  uint8_t alignment_logarithm, check;
};
struct OutOfBounds {
  SourceLocation location;
  const TypeDescriptor *array, *index;
};

}  // namespace

#define CODE __builtin_return_address(0)

extern "C" {

void __tsan_init() {}

void __tsan_func_entry(void* called_at) { nibble::cuda::racecheck::enter(called_at); }
void __tsan_func_exit() { nibble::cuda::racecheck::leave(); }

#define ACCESSES(bytes)                                                                           \
  void __tsan_read##bytes(void* address) { touch(address, bytes, Kind::read, CODE); }             \
  void __tsan_write##bytes(void* address) { touch(address, bytes, Kind::write, CODE); }           \
  void __tsan_unaligned_read##bytes(void* address) { touch(address, bytes, Kind::read, CODE); }   \
  void __tsan_unaligned_write##bytes(void* address) { touch(address, bytes, Kind::write, CODE); } \
  void __tsan_volatile_read##bytes(void* address) { touch(address, bytes, Kind::read, CODE); }    \
  void __tsan_volatile_write##bytes(void* address) { touch(address, bytes, Kind::write, CODE); }
ACCESSES(1)
ACCESSES(2)
ACCESSES(4)
ACCESSES(8)
ACCESSES(16)

void __tsan_read_range(void* address, unsigned long bytes) { touch(address, bytes, Kind::read, CODE); }
void __tsan_write_range(void* address, unsigned long bytes) { touch(address, bytes, Kind::write, CODE); }
void __tsan_vptr_read(void**) {}
void __tsan_vptr_update(void**, void*) {}

#define ATOMIC(bits, name, builtin)                                                        \
  uint##bits##_t __tsan_atomic##bits##_##name(uint##bits##_t* of, uint##bits##_t x, int) { \
    touch(of, sizeof *of, Kind::atomic, CODE);                                             \
    return builtin(of, x, __ATOMIC_SEQ_CST);                                               \
  }
#define COMPARE_EXCHANGE(bits, name)                                                                                \
  int __tsan_atomic##bits##_compare_exchange_##name(uint##bits##_t* of, uint##bits##_t* expected, uint##bits##_t x, \
                                                    int, int) {                                                     \
    touch(of, sizeof *of, Kind::atomic, CODE);                                                                      \
    return __atomic_compare_exchange_n(of, expected, x, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);                 \
  }
#define ATOMICS(bits)                                                           \
  uint##bits##_t __tsan_atomic##bits##_load(const uint##bits##_t* of, int) {    \
    touch(of, sizeof *of, Kind::atomic, CODE);                                  \
    return __atomic_load_n(of, __ATOMIC_SEQ_CST);                               \
  }                                                                             \
  void __tsan_atomic##bits##_store(uint##bits##_t* of, uint##bits##_t x, int) { \
    touch(of, sizeof *of, Kind::atomic, CODE);                                  \
    __atomic_store_n(of, x, __ATOMIC_SEQ_CST);                                  \
  }                                                                             \
  ATOMIC(bits, exchange, __atomic_exchange_n)                                   \
  ATOMIC(bits, fetch_add, __atomic_fetch_add)                                   \
  ATOMIC(bits, fetch_sub, __atomic_fetch_sub)                                   \
  ATOMIC(bits, fetch_and, __atomic_fetch_and)                                   \
  ATOMIC(bits, fetch_or, __atomic_fetch_or)                                     \
  ATOMIC(bits, fetch_xor, __atomic_fetch_xor)                                   \
  COMPARE_EXCHANGE(bits, strong)                                                \
  COMPARE_EXCHANGE(bits, weak)
ATOMICS(8)
ATOMICS(16)
ATOMICS(32)
ATOMICS(64)

void __tsan_atomic_thread_fence(int) { std::atomic_thread_fence(std::memory_order_seq_cst); }
void __tsan_atomic_signal_fence(int) {}

void __ubsan_handle_type_mismatch_v1(TypeMismatch* of, uintptr_t address) {
  nibble::cuda::racecheck::misaligned(address, size_t{1} << of->alignment_logarithm, of->type->name, CODE);
}
void __ubsan_handle_out_of_bounds(OutOfBounds* of, uintptr_t index) {
  nibble::cuda::racecheck::no_such_element(index, of->array->name, CODE);
}

}  // extern "C"
