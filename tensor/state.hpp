// The state list: everything a resumed run needs, declared once by the object that owns it.
//
// Saving, loading, size estimates and the resume test all iterate this list. On several ranks every rank lists the same
// names; each entry says which part of the logical tensor this rank has.
#pragma once

#include <cassert>
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
    int64_t first = 0;           ///< row-major element of the logical tensor with which `tensor` begins
    bool replicated = true;      ///< `tensor` is the whole logical tensor and the same on every rank
    bool addends = false;        ///< the logical tensor's rows are the ranks', and what counts is their sum

    int64_t count() const { return tensor.size(); }
  };

  /// Throws Error{internal} for a name that is in the list already.
  void add(Entry entry) {
    if (!names_.insert(entry.name).second)
      throw Error({.kind = ErrorKind::internal, .what = "two entries of the state have one name", .seen = entry.name});
    entries_.push_back(std::move(entry));
  }
  /// A whole tensor. On several ranks: the same, bit for bit, on each. Throws as add.
  void add(std::string name, Tensor tensor) {
    add({.name = std::move(name), .tensor = tensor, .rows = tensor.rows, .cols = tensor.cols});
  }
  template <class T>
  void add_scalar(std::string name, T& value) {
    add(std::move(name), Tensor(&value, 1, 1));
  }
  /// Elements [first, first + n) of a logical [rows, cols], row-major; `run` is [1, n]. The ranks' runs together are
  /// the tensor; a rank that owns nothing of it lists an empty run. Throws as add.
  void add_run(std::string name, Tensor run, int64_t rows, int64_t cols, int64_t first) {
    assert(run.rows == 1 && first >= 0 && first + run.cols <= rows * cols);
    add({.name = std::move(name), .tensor = run, .rows = rows, .cols = cols, .first = first, .replicated = false});
  }
  /// This rank's row of [ranks, n], of which only the sum of the rows matters, so that another number of ranks can go
  /// on with it. Throws as add.
  void add_addend(std::string name, Tensor row, int rank, int ranks) {
    assert(row.rows == 1);
    add({.name = std::move(name),
         .tensor = row,
         .rows = ranks,
         .cols = row.cols,
         .first = rank * row.cols,
         .replicated = false,
         .addends = true});
  }
  /// The same where this rank has no row.
  void add_addend_of_others(std::string name, DType dtype, int64_t rows, int64_t cols) {
    add({.name = std::move(name),
         .tensor = Tensor(dtype, nullptr, 1, 0),
         .rows = rows,
         .cols = cols,
         .replicated = false,
         .addends = true});
  }

  const std::vector<Entry>& entries() const { return entries_; }
  /// Of what this rank has.
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
