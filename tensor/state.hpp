// The state list: everything a resumed run needs, declared once by the object that owns it.
//
// Saving, loading, size estimates and the resume test all iterate this list.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "tensor/error.hpp"
#include "tensor/tensor.hpp"

namespace nibble {

class StateList {
 public:
  struct Entry {
    std::string name;            ///< unique, slash-separated: "optimizer/first_moment/model.norm.weight"
    Tensor tensor;               ///< a view of the owner's memory
    int64_t rows = 0, cols = 0;  ///< of the logical tensor
    int64_t first = 0;           ///< its element, row-major, with which `tensor` begins

    bool whole() const { return tensor.size() == rows * cols; }
  };

  /// Throws Error{internal} for a name that is in the list already.
  void add(std::string name, Tensor tensor) { add_run(std::move(name), tensor, tensor.rows, tensor.cols, 0); }
  /// A run of the elements of a logical tensor [rows, cols], or all of them.
  void add_run(std::string name, Tensor tensor, int64_t rows, int64_t cols, int64_t first) {
    if (!names_.insert(name).second)
      throw Error({.kind = ErrorKind::internal, .what = "two entries of the state have one name", .seen = name});
    entries_.push_back({std::move(name), tensor, rows, cols, first});
  }
  template <class T>
  void add_scalar(std::string name, T& value) {
    add(std::move(name), Tensor(&value, 1, 1));
  }

  const std::vector<Entry>& entries() const { return entries_; }
  size_t bytes() const {
    size_t total = 0;
    for (const Entry& entry : entries_) total += entry.tensor.bytes();
    return total;
  }

 private:
  std::vector<Entry> entries_;
  std::set<std::string> names_;
};

}  // namespace nibble
