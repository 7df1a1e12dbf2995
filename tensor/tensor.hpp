// Memory: owning buffers, non-owning matrix views, and arenas that are measured before they are allocated.
//
// Everything that Nibble computes on is a row-major matrix [rows, cols]; a vector is [1, n]. Its memory is the host's
// or a device's, which only kernels and copies touch. Not for: shapes of higher rank (the layers that need heads or
// sequences say so in their signatures).
#pragma once

#include <cassert>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "tensor/dtype.hpp"
#include "tensor/memory.hpp"
#include "tensor/place.hpp"

namespace nibble {

/// Rows and buffers start on cache lines, which are also the width of one AVX-512 register.
inline constexpr size_t alignment = 64;

/// A non-owning view of a row-major matrix. `stride` counts elements from one row to the next, >= cols.
struct Tensor {
  DType dtype = DType::f32;
  Place place = Place::host;
  void* data = nullptr;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t stride = 0;

  Tensor() = default;
  Tensor(DType type, void* pointer, int64_t row_count, int64_t col_count)
      : Tensor(type, pointer, row_count, col_count, col_count) {}
  Tensor(DType type, void* pointer, int64_t row_count, int64_t col_count, int64_t row_stride, Place where = Place::host)
      : dtype(type), place(where), data(pointer), rows(row_count), cols(col_count), stride(row_stride) {}
  template <class T>
  Tensor(T* pointer, int64_t row_count, int64_t col_count) : Tensor(dtype_of<T>, pointer, row_count, col_count) {}

  explicit operator bool() const { return data != nullptr; }
  int64_t size() const { return rows * cols; }
  size_t bytes() const { return static_cast<size_t>(size()) * size_of(dtype); }
  bool contiguous() const { return stride == cols || rows <= 1; }

  template <class T>
  T* as() const {
    assert(dtype == dtype_of<T> && place == Place::host);
    return static_cast<T*>(data);
  }
  /// What kernels are told.
  template <class T>
  T* on_device() const {
    assert(dtype == dtype_of<T> && (place == Place::device || !data));
    return static_cast<T*>(data);
  }
  template <class T>
  T* row(int64_t i) const {
    return as<T>() + i * stride;
  }

  /// The elements of a packed matrix in another shape; not all of them, where it needs fewer.
  Tensor packed_as(int64_t row_count, int64_t col_count) const {
    assert(contiguous() && row_count * col_count <= size());
    return {dtype, data, row_count, col_count, col_count, place};
  }
  /// Rows [first, first + count).
  Tensor slice_rows(int64_t first, int64_t count) const {
    assert(first >= 0 && first + count <= rows);
    return {dtype,  static_cast<char*>(data) + first * stride * static_cast<int64_t>(size_of(dtype)),
            count,  cols,
            stride, place};
  }
  /// Elements [first, first + count) of a packed matrix, row-major, as one row.
  Tensor run(int64_t first, int64_t count) const {
    assert(contiguous() && first >= 0 && first + count <= size());
    void* const begin = data ? static_cast<char*>(data) + first * static_cast<int64_t>(size_of(dtype)) : nullptr;
    return {dtype, begin, 1, count, count, place};
  }
  /// Columns [first, first + count).
  Tensor slice_cols(int64_t first, int64_t count) const {
    assert(first >= 0 && first + count <= cols);
    return {dtype, static_cast<char*>(data) + first * static_cast<int64_t>(size_of(dtype)), rows, count, stride, place};
  }
};

/// A view whose rows start on 64-byte boundaries needs this stride, in elements.
constexpr int64_t padded_stride(DType type, int64_t cols) {
  const int64_t per_line = static_cast<int64_t>(alignment / size_of(type));
  return (cols + per_line - 1) / per_line * per_line;
}

/// rows x cols elements in bytes. Throws Error{resource} when that is more than any memory.
size_t bytes_of(DType type, int64_t rows, int64_t cols);

/// Owning, 64-byte aligned memory that reads as zero, entered in the ledger (tensor/memory.hpp) under its purpose.
///
/// A large buffer costs address space only: its pages, huge ones where the system has them, come with the first write
/// and lie near the thread that writes. Until then all of them are one page of zeros, so reading them measures a cache.
/// Throws Error{resource} when the system has no memory or no addresses left.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t bytes, const std::string& purpose = {}, Place place = Place::host);

  void* data() const { return memory_.get(); }
  size_t bytes() const { return bytes_; }

 private:
  enum class Source : uint8_t { heap, mapping, device };
  struct Free {
    size_t reserved;  ///< bytes, whole pages if mapped
    Source source;
    MemoryAccount* account;
    void operator()(void* pointer) const;
  };
  std::unique_ptr<void, Free> memory_;
  size_t bytes_ = 0;
};

/// A matrix with memory of its own; rows are padded to 64 bytes only where asked.
class OwnedTensor {
 public:
  OwnedTensor() = default;
  OwnedTensor(DType type, int64_t rows, int64_t cols, const std::string& purpose = {}, Place place = Place::host)
      : buffer_(bytes_of(type, rows, cols), purpose, place), view_(type, buffer_.data(), rows, cols, cols, place) {}

  const Tensor& view() const { return view_; }
  operator Tensor() const { return view_; }

 private:
  Buffer buffer_;
  Tensor view_;
};

/// Memory of one lifetime, handed out front to back from a single buffer.
///
///   Arena arena("activations", [&](Arena& a) { x = a.take(DType::bf16, tokens, width); ... });
///
/// runs the layout twice: once to measure, once to hand out views. Views stay valid while the arena lives.
class Arena {
 public:
  Arena() = default;
  template <class Layout>
  Arena(const std::string& purpose, Layout&& layout, Place place = Place::host) : place_(place) {
    layout(*this);
    buffer_ = Buffer(used_, purpose, place);
    used_ = 0;
    layout(*this);
  }
  Arena(Arena&&) = default;
  Arena& operator=(Arena&&) = default;

  /// A matrix whose rows start on 64-byte boundaries. While measuring, its data is null.
  Tensor take(DType type, int64_t rows, int64_t cols) {
    const int64_t stride = padded_stride(type, cols);
    const size_t offset = used_;
    used_ += (bytes_of(type, rows, stride) + alignment - 1) / alignment * alignment;
    void* pointer = buffer_.data() ? static_cast<char*>(buffer_.data()) + offset : nullptr;
    return {type, pointer, rows, cols, stride, place_};
  }

  /// A matrix without paddings.
  Tensor take_packed(DType type, int64_t rows, int64_t cols) {
    return take(type, 1, rows * cols).packed_as(rows, cols);
  }

  size_t bytes() const { return buffer_.bytes(); }
  Place place() const { return place_; }

 private:
  Place place_ = Place::host;
  Buffer buffer_;
  size_t used_ = 0;
};

}  // namespace nibble
