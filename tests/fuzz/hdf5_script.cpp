#include "tests/fuzz/hdf5_script.hpp"

#include <hdf5.h>

#include <cstdlib>
#include <sstream>
#include <string>
#include <vector>

namespace nibble::fuzz {
namespace {

constexpr size_t most_values = 4096;

/// An identifier of whatever kind; gone with its scope.
class Id {
 public:
  Id(hid_t id) : id_(id) {}
  ~Id() {
    if (id_ >= 0) H5Idec_ref(id_);
  }
  Id(const Id&) = delete;
  Id& operator=(const Id&) = delete;
  operator hid_t() const { return id_; }

 private:
  hid_t id_;
};

struct Type {
  std::string_view name;
  hid_t stored;
};

hid_t stored_type(std::string_view name) {
  const Type types[] = {{"f32", H5T_IEEE_F32LE}, {"f64", H5T_IEEE_F64LE}, {"i32", H5T_STD_I32LE},
                        {"i64", H5T_STD_I64LE},  {"u8", H5T_STD_U8LE},    {"u16", H5T_STD_U16LE}};
  for (const Type& type : types)
    if (type.name == name) return type.stored;
  return H5I_INVALID_HID;
}

class Line {
 public:
  Line(hid_t file, const std::string& text) : file_(file), words_(text) { words_ >> kind_ >> name_; }

  void write() {
    if (name_.empty()) return;
    const size_t star = kind_.find('*'), at = kind_.find('@');
    const std::string kind = kind_.substr(0, std::min(star, at));
    if (stored_type(kind) >= 0) return dataset(stored_type(kind), columns(star));
    if (kind == "integer" || kind == "text")
      return attribute(kind, at == std::string::npos ? "." : kind_.substr(at + 1));
    odd(kind);
  }

 private:
  size_t columns(size_t star) const {
    return star == std::string::npos ? 0 : std::strtoul(kind_.c_str() + star + 1, nullptr, 10);
  }

  void create(hid_t type, hid_t space, hid_t properties, const void* values) {
    const Id link = H5Pcreate(H5P_LINK_CREATE);
    H5Pset_create_intermediate_group(link, 1);
    const Id dataset = H5Dcreate2(file_, name_.c_str(), type, space, link, properties, H5P_DEFAULT);
    if (dataset >= 0 && values != nullptr) H5Dwrite(dataset, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, values);
  }

  void dataset(hid_t type, size_t columns) {
    std::vector<double> values;
    for (std::string word; values.size() < most_values && words_ >> word;)
      values.push_back(std::strtod(word.c_str(), nullptr));
    const bool matrix = columns > 0 && values.size() % columns == 0;
    const hsize_t sizes[2] = {matrix ? values.size() / columns : values.size(), columns};
    const Id properties = H5Pcreate(H5P_DATASET_CREATE), space = H5Screate_simple(matrix ? 2 : 1, sizes, nullptr);
    H5Pset_layout(properties, H5D_CONTIGUOUS);
    H5Pset_alloc_time(properties, H5D_ALLOC_TIME_EARLY);
    create(type, space, properties, values.data());
  }

  void attribute(const std::string& kind, const std::string& owner) {
    const Id object = H5Oopen(file_, owner.c_str(), H5P_DEFAULT);
    if (object < 0) return;
    const Id space = H5Screate(H5S_SCALAR), type = H5Tcopy(kind == "text" ? H5T_C_S1 : H5T_STD_I64LE);
    std::string text;
    std::getline(words_ >> std::ws, text);
    const int64_t number = std::strtoll(text.c_str(), nullptr, 10);
    if (kind == "text") {
      text.resize(std::max<size_t>(text.size(), 1));
      H5Tset_size(type, text.size());
      H5Tset_strpad(type, H5T_STR_NULLPAD);
    }
    const Id attribute = H5Acreate2(object, name_.c_str(), type, space, H5P_DEFAULT, H5P_DEFAULT);
    if (attribute >= 0) H5Awrite(attribute, type, kind == "text" ? static_cast<const void*>(text.data()) : &number);
  }

  void odd(const std::string& kind) {
    const hsize_t sizes[3] = {4, 2, 2};
    const Id properties = H5Pcreate(H5P_DATASET_CREATE), text = H5Tcopy(H5T_C_S1);
    const Id vector = H5Screate_simple(1, sizes, nullptr), cube = H5Screate_simple(3, sizes, nullptr);
    const Id scalar = H5Screate(H5S_SCALAR), null = H5Screate(H5S_NULL);
    if (kind == "chunked") {
      H5Pset_chunk(properties, 1, sizes);
      create(H5T_STD_U16LE, vector, properties, nullptr);
    } else if (kind == "compact") {
      H5Pset_layout(properties, H5D_COMPACT);
      create(H5T_STD_U16LE, vector, properties, nullptr);
    } else if (kind == "external") {
      H5Pset_external(properties, "/etc/hostname", 0, 8);
      create(H5T_STD_U16LE, vector, properties, nullptr);
    } else if (kind == "scalar") {
      create(H5T_STD_I64LE, scalar, properties, nullptr);
    } else if (kind == "null") {
      create(H5T_STD_I64LE, null, properties, nullptr);
    } else if (kind == "cube") {
      create(H5T_STD_I64LE, cube, properties, nullptr);
    } else if (kind == "words") {
      create(H5T_STD_U16BE, vector, properties, nullptr);
    } else if (kind == "variable") {
      H5Tset_size(text, H5T_VARIABLE);
      create(text, vector, properties, nullptr);
    } else if (kind == "loop") {
      H5Lcreate_soft(("/" + name_).c_str(), file_, name_.c_str(), H5P_DEFAULT, H5P_DEFAULT);
    } else if (kind == "group") {
      const Id group = H5Gcreate2(file_, name_.c_str(), H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    }
  }

  hid_t file_;
  std::istringstream words_;
  std::string kind_, name_;
};

}  // namespace

void write_hdf5_script(const std::filesystem::path& path, std::string_view script, uint64_t user_block) {
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
  const Id creation = H5Pcreate(H5P_FILE_CREATE), access = H5Pcreate(H5P_FILE_ACCESS);
  H5Pset_userblock(creation, user_block);
  H5Pset_fclose_degree(access, H5F_CLOSE_STRONG);
  H5Pset_alignment(access, 1, 64);
  const Id file = H5Fcreate(path.c_str(), H5F_ACC_TRUNC, creation, access);
  std::istringstream lines{std::string(script)};
  for (std::string line; std::getline(lines, line);) Line(file, line).write();
  H5Eclear2(H5E_DEFAULT);
}

}  // namespace nibble::fuzz
