// HDF5 files as Nibble writes them: contiguous datasets of native little-endian elements, and scalar attributes.
//
// A thin layer over the C API: handles are closed, HDF5's own error printing is off, and every failure becomes an
// Error with the file and the dataset. Calls from several threads are serialised, as HDF5 itself is not re-entrant.
// Not for: verifying hostile files; whoever opens a file has checked its checksum before (token_data.hpp, checkpoints).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tensor/error.hpp"
#include "tensor/files.hpp"
#include "tensor/tensor.hpp"

namespace nibble::hdf5 {

/// What stands in a file about a dataset.
struct DatasetInfo {
  DType dtype = DType::f32;
  std::vector<int64_t> shape;  ///< one entry (a vector) or two (rows, columns)
  int64_t offset = -1;         ///< of its first byte in the file, user block included; -1 for an empty dataset

  int64_t size() const { return shape.size() == 1 ? shape[0] : shape[0] * shape[1]; }
  int64_t rows() const { return shape.size() == 1 ? 1 : shape[0]; }
  int64_t cols() const { return shape.back(); }
};

/// An open file. Paths inside it are slash-separated ("optimizer/first_moment/model.norm.weight"); the groups on the
/// way are made as needed. bf16 is stored as 16-bit unsigned integers with the attribute `dtype` = "bf16". Every method
/// throws Error of the kind given at opening, with the file, the object and HDF5's own reason.
class File {
 public:
  /// A new, empty file in place of whatever was there. `user_block`: bytes before HDF5's own data, a power of two >=
  /// 512, or 0; they are left for the caller to write after `close`.
  static File create(const std::string& path, ErrorKind kind, int64_t user_block = 0);
  static File open(const std::string& path, ErrorKind kind);
  /// Opens a file whose mapped bytes were verified; refuses another one that has taken its name meanwhile.
  static File open(const MappedFile& verified, ErrorKind kind);
  ~File();
  File(File&&) noexcept;
  File& operator=(File&&) noexcept;

  /// Writes out everything and closes; reports errors that the destructor would have to swallow.
  void close();

  const std::string& path() const { return path_; }

  // Datasets -------------------------------------------------------------------------------------------------------

  /// Stores a matrix [rows, cols]; padding between rows is not stored.
  void write(const std::string& name, const Tensor& tensor);
  /// Stores a vector [n].
  template <class T>
  void write(const std::string& name, const std::vector<T>& values) {
    create_dataset(name, dtype_of<T>, {static_cast<int64_t>(values.size())});
    // Tensor views carry no constness; write_range only reads.
    write_range(name, 0, Tensor(const_cast<T*>(values.data()), 1, static_cast<int64_t>(values.size())));
  }
  /// Reserves a dataset of one or two dimensions that `write_range` fills; what is not written is undefined.
  void create_dataset(const std::string& name, DType dtype, const std::vector<int64_t>& shape);
  /// Writes `tensor` over rows [first, first + rows) of a matrix, or over elements [first, first + size) of a vector.
  void write_range(const std::string& name, int64_t first, const Tensor& tensor);

  /// Fills `tensor`, whose element type and shape must be the dataset's (a vector [n] is a tensor [1, n]).
  void read(const std::string& name, const Tensor& tensor);
  /// Fills `tensor` from rows [first, first + rows) of a matrix, or from elements [first, first + size) of a vector.
  void read_range(const std::string& name, int64_t first, const Tensor& tensor);
  /// Fills a run [1, n] from elements [first, first + n) of a vector, or of a matrix in row-major order.
  void read_elements(const std::string& name, int64_t first, const Tensor& run);

  /// Throws when the dataset is missing or holds an element type or layout that Nibble never writes.
  DatasetInfo describe(const std::string& name);
  bool contains(const std::string& name);
  /// Paths of all datasets, sorted.
  std::vector<std::string> datasets();

  // Attributes of a dataset or group; object "/" is the file's root --------------------------------------------------

  void set_attribute(const std::string& object, const std::string& name, int64_t value);
  /// At most 60 KB of text without zero bytes.
  void set_attribute(const std::string& object, const std::string& name, std::string_view text);
  int64_t integer_attribute(const std::string& object, const std::string& name);
  std::string string_attribute(const std::string& object, const std::string& name);
  bool has_attribute(const std::string& object, const std::string& name);

 private:
  File(std::string path, ErrorKind kind);

  void transfer(const std::string& name, int64_t first, const Tensor& tensor, bool whole, bool writing);
  [[noreturn]] void fail(std::string what, const std::string& object, std::string seen = {}, std::string allowed = {});

  std::string path_;
  ErrorKind kind_;
  int64_t id_ = -1;  ///< HDF5's hid_t
};

}  // namespace nibble::hdf5
