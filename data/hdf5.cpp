#include "data/hdf5.hpp"

#include <hdf5.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <limits>
#include <mutex>
#include <utility>

#include "fmt/format.h"
#include "fmt/ranges.h"

namespace nibble::hdf5 {
namespace {

static_assert(sizeof(hid_t) == sizeof(int64_t), "the header stores hid_t as int64_t");

constexpr size_t largest_text = 60 * 1024;  // attributes live in object headers, whose messages end at 64 KB

std::recursive_mutex& library_mutex() {
  static std::recursive_mutex mutex;
  return mutex;
}

/// An HDF5 identifier with its closing function.
class Handle {
 public:
  Handle(hid_t id, herr_t (*close)(hid_t)) : id_(id), close_(close) {}
  ~Handle() {
    if (id_ >= 0) close_(id_);
  }
  Handle(Handle&& other) noexcept : id_(std::exchange(other.id_, H5I_INVALID_HID)), close_(other.close_) {}
  operator hid_t() const { return id_; }
  bool valid() const { return id_ >= 0; }
  /// For what is only complete, and can only fail, when it is closed. Whether that went well.
  bool finish() { return close_(std::exchange(id_, H5I_INVALID_HID)) >= 0; }

 private:
  hid_t id_;
  herr_t (*close_)(hid_t);
};

/// The innermost message of HDF5's error stack: the one that names the cause.
std::string reason() {
  std::string text;
  auto keep_last = [](unsigned, const H5E_error2_t* error, void* out) -> herr_t {
    if (error->desc != nullptr) *static_cast<std::string*>(out) = error->desc;
    return 0;
  };
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_DOWNWARD, keep_last, &text);
  H5Eclear2(H5E_DEFAULT);
  // "file write failed: time = ..., error message = 'No space left on device', buf = ...": what the system said.
  constexpr std::string_view mark = "error message = '";
  if (const size_t begin = text.find(mark); begin != std::string::npos) {
    const size_t first = begin + mark.size(), end = text.find('\'', first);
    return text.substr(first, end == std::string::npos ? end : end - first);
  }
  return text;
}

hid_t file_type(DType type) {
  switch (type) {
    case DType::f32:
      return H5T_IEEE_F32LE;
    case DType::f64:
      return H5T_IEEE_F64LE;
    case DType::i32:
      return H5T_STD_I32LE;
    case DType::i64:
      return H5T_STD_I64LE;
    case DType::u8:
      return H5T_STD_U8LE;
    case DType::i8:
      return H5T_STD_I8LE;
    case DType::bf16:
    case DType::u16:
      return H5T_STD_U16LE;
  }
  return H5I_INVALID_HID;
}

/// Properties of file access: no locks, because many cluster file systems refuse them and a shard has many readers.
Handle access_properties() {
  Handle properties(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
#if H5_VERSION_GE(1, 12, 1) || (H5_VERSION_GE(1, 10, 7) && !H5_VERSION_GE(1, 12, 0))
  H5Pset_file_locking(properties, false, true);
#else
  static const bool locks_off = setenv("HDF5_USE_FILE_LOCKING", "FALSE", 0) == 0;
  static_cast<void>(locks_off);
#endif
  H5Pset_fclose_degree(properties, H5F_CLOSE_STRONG);
  H5Pset_alignment(properties, 1, alignment);  // so that a mapped dataset can be used in place
  return properties;
}

/// The file or group half of "/": HDF5 wants "." for an object itself.
const char* object_path(const std::string& object) { return object == "/" ? "." : object.c_str(); }

std::vector<hsize_t> extents(hid_t space) {
  const int rank = H5Sget_simple_extent_ndims(space);
  std::vector<hsize_t> sizes(static_cast<size_t>(std::max(rank, 0)));
  if (!sizes.empty()) H5Sget_simple_extent_dims(space, sizes.data(), nullptr);
  return sizes;
}

}  // namespace

File::File(std::string path, ErrorKind kind) : path_(std::move(path)), kind_(kind) {
  // HDF5 keeps the identifier of a file whose last write failed, and its handler at the end of the process would use it
  // after its memory is gone. Every file of ours is closed before.
  static const bool no_handler = H5dont_atexit() >= 0;
  static_cast<void>(no_handler);
  // Nibble reports errors itself; HDF5 would print its stack.
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
}

File::File(File&& other) noexcept
    : path_(std::move(other.path_)), kind_(other.kind_), id_(std::exchange(other.id_, -1)) {}

File& File::operator=(File&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(kind_, other.kind_);
  std::swap(id_, other.id_);
  return *this;
}

File::~File() {
  const std::lock_guard lock(library_mutex());
  if (id_ >= 0) H5Fclose(id_);
}

void File::fail(std::string what, const std::string& object, std::string seen, std::string allowed) {
  if (seen.empty()) seen = reason();
  throw Error({.kind = kind_,
               .what = std::move(what),
               .where = object.empty() ? path_ : fmt::format("{}, object '{}'", path_, object),
               .seen = std::move(seen),
               .allowed = std::move(allowed),
               .next = kind_ == ErrorKind::resource
                           ? "check free space, quota and permissions there, or choose another directory"
                           : "the file is damaged or of another kind: fetch or make it again"});
}

File File::create(const std::string& path, ErrorKind kind, int64_t user_block) {
  const std::lock_guard lock(library_mutex());
  File file(path, kind);
  const Handle creation(H5Pcreate(H5P_FILE_CREATE), H5Pclose);
  const Handle access = access_properties();
  if (H5Pset_userblock(creation, static_cast<hsize_t>(user_block)) < 0)
    file.fail("cannot reserve a user block", {}, fmt::format("{} bytes", user_block), "0 or a power of two >= 512");
  file.id_ = H5Fcreate(path.c_str(), H5F_ACC_TRUNC, creation, access);
  if (file.id_ < 0) file.fail("cannot create the HDF5 file", {});
  return file;
}

File File::open(const std::string& path, ErrorKind kind) {
  const std::lock_guard lock(library_mutex());
  File file(path, kind);
  std::error_code error;
  if (std::filesystem::status(path, error).type() == std::filesystem::file_type::not_found)
    file.fail("the file does not exist", {}, "no such file");
  const Handle access = access_properties();
  file.id_ = H5Fopen(path.c_str(), H5F_ACC_RDONLY, access);
  if (file.id_ < 0) file.fail("cannot open as HDF5", {}, {}, "an undamaged HDF5 file");
  return file;
}

File File::open(const MappedFile& verified, ErrorKind kind) {
  const std::lock_guard lock(library_mutex());
  File file = open(verified.path().string(), kind);
  void* descriptor = nullptr;  // HDF5's default driver gives a pointer to its file descriptor
  if (H5Fget_vfd_handle(file.id_, H5P_DEFAULT, &descriptor) < 0 || descriptor == nullptr)
    file.fail("cannot examine the open HDF5 file", {});
  if (!verified.is_same_file(*static_cast<const int*>(descriptor)))
    file.fail("the file was replaced while it was being opened", {}, "another file under its name");
  return file;
}

void File::close() {
  const std::lock_guard lock(library_mutex());
  if (id_ >= 0 && H5Fclose(std::exchange(id_, -1)) < 0) fail("cannot write out the HDF5 file", {});
}

void File::create_dataset(const std::string& name, DType dtype, const std::vector<int64_t>& shape) {
  const std::lock_guard lock(library_mutex());
  const std::vector<hsize_t> sizes(shape.begin(), shape.end());
  const Handle space(H5Screate_simple(static_cast<int>(sizes.size()), sizes.data(), nullptr), H5Sclose);
  const Handle link(H5Pcreate(H5P_LINK_CREATE), H5Pclose);
  H5Pset_create_intermediate_group(link, 1);
  const Handle creation(H5Pcreate(H5P_DATASET_CREATE), H5Pclose);
  H5Pset_layout(creation, H5D_CONTIGUOUS);
  H5Pset_alloc_time(creation, H5D_ALLOC_TIME_EARLY);
  H5Pset_fill_time(creation, H5D_FILL_TIME_NEVER);
  H5Pset_obj_track_times(creation, false);  // equal contents give equal files
  const Handle dataset(H5Dcreate2(id_, name.c_str(), file_type(dtype), space, link, creation, H5P_DEFAULT), H5Dclose);
  if (!dataset.valid()) fail("cannot create the dataset", name);
  if (dtype == DType::bf16) set_attribute(name, "dtype", std::string_view("bf16"));
}

void File::write(const std::string& name, const Tensor& tensor) {
  create_dataset(name, tensor.dtype, {tensor.rows, tensor.cols});
  transfer(name, 0, tensor, true, true);
}

void File::write_range(const std::string& name, int64_t first, const Tensor& tensor) {
  transfer(name, first, tensor, false, true);
}
void File::read(const std::string& name, const Tensor& tensor) { transfer(name, 0, tensor, true, false); }
void File::read_range(const std::string& name, int64_t first, const Tensor& tensor) {
  transfer(name, first, tensor, false, false);
}

void File::transfer(const std::string& name, int64_t first, const Tensor& tensor, bool whole, bool writing) {
  const std::lock_guard lock(library_mutex());
  const DatasetInfo info = describe(name);
  const auto shape_text = [](DType type, int64_t rows, int64_t cols) {
    return fmt::format("{} [{}, {}]", nibble::name(type), rows, cols);
  };
  const bool is_vector = info.shape.size() == 1;
  const int64_t count = is_vector ? tensor.size() : tensor.rows;  // along the dataset's first dimension
  const bool fits = tensor.dtype == info.dtype && (is_vector ? tensor.contiguous() : tensor.cols == info.cols()) &&
                    first >= 0 && first + count <= info.shape[0] && (!whole || count == info.shape[0]);
  if (!fits)
    fail(writing ? "the tensor does not fit into the dataset" : "the dataset does not have the expected type and shape",
         name, shape_text(info.dtype, info.rows(), info.cols()),
         shape_text(tensor.dtype, tensor.rows, tensor.cols) + (whole ? "" : fmt::format(" from {}", first)));
  if (tensor.size() == 0) return;

  Handle dataset(H5Dopen2(id_, name.c_str(), H5P_DEFAULT), H5Dclose);
  const Handle in_file(H5Dget_space(dataset), H5Sclose);
  const hsize_t file_start[2] = {static_cast<hsize_t>(first), 0};
  const hsize_t file_count[2] = {static_cast<hsize_t>(count), static_cast<hsize_t>(info.cols())};
  // In memory a row may be longer than its elements; the last one is not, so the view ends where its elements end.
  const hsize_t memory_size = static_cast<hsize_t>((tensor.rows - 1) * tensor.stride + tensor.cols);
  const Handle in_memory(H5Screate_simple(1, &memory_size, nullptr), H5Sclose);
  const hsize_t memory_start = 0, memory_stride = static_cast<hsize_t>(tensor.stride);
  const hsize_t memory_count = static_cast<hsize_t>(tensor.rows), memory_block = static_cast<hsize_t>(tensor.cols);
  herr_t status = H5Sselect_hyperslab(in_file, H5S_SELECT_SET, file_start, nullptr, file_count, nullptr);
  if (status >= 0 && !tensor.contiguous())
    status =
        H5Sselect_hyperslab(in_memory, H5S_SELECT_SET, &memory_start, &memory_stride, &memory_count, &memory_block);
  const hid_t type = file_type(tensor.dtype);  // little-endian, as every machine that Nibble runs on
  if (status >= 0)
    status = writing ? H5Dwrite(dataset, type, in_memory, in_file, H5P_DEFAULT, tensor.data)
                     : H5Dread(dataset, type, in_memory, in_file, H5P_DEFAULT, tensor.data);
  // Small datasets are written when they are closed: on a full disk this is where it shows.
  if (status < 0 || (writing && !dataset.finish()))
    fail(writing ? "cannot write the dataset" : "cannot read the dataset", name);
}

void File::read_elements(const std::string& name, int64_t first, const Tensor& run) {
  const std::lock_guard lock(library_mutex());
  const DatasetInfo info = describe(name);
  if (run.dtype != info.dtype || run.rows != 1 || first < 0 || run.cols > info.size() || first > info.size() - run.cols)
    fail("the dataset does not have the expected type and elements", name,
         fmt::format("{} [{}]", nibble::name(info.dtype), info.size()),
         fmt::format("{} [{}] from {}", nibble::name(run.dtype), run.cols, first));
  if (run.cols == 0) return;

  const Handle dataset(H5Dopen2(id_, name.c_str(), H5P_DEFAULT), H5Dclose);
  const Handle in_file(H5Dget_space(dataset), H5Sclose);
  // The rest of a row, whole rows, the beginning of a row: HDF5 joins them in row-major order.
  herr_t status = H5Sselect_none(in_file);
  for (int64_t done = 0; status >= 0 && done < run.cols;) {
    const int64_t row = (first + done) / info.cols(), col = (first + done) % info.cols(), left = run.cols - done;
    const int64_t rows = col == 0 ? std::max<int64_t>(1, left / info.cols()) : 1;
    const int64_t cols = std::min(left, info.cols() - col);
    const bool is_vector = info.shape.size() == 1;
    const hsize_t start[2] = {static_cast<hsize_t>(is_vector ? col : row), static_cast<hsize_t>(col)};
    const hsize_t count[2] = {static_cast<hsize_t>(is_vector ? cols : rows), static_cast<hsize_t>(cols)};
    status = H5Sselect_hyperslab(in_file, H5S_SELECT_OR, start, nullptr, count, nullptr);
    done += rows * cols;
  }
  const hsize_t size = static_cast<hsize_t>(run.cols);
  const Handle in_memory(H5Screate_simple(1, &size, nullptr), H5Sclose);
  if (status < 0 || H5Dread(dataset, file_type(run.dtype), in_memory, in_file, H5P_DEFAULT, run.data) < 0)
    fail("cannot read the dataset", name);
}

DatasetInfo File::describe(const std::string& name) {
  const std::lock_guard lock(library_mutex());
  const Handle dataset(H5Dopen2(id_, name.c_str(), H5P_DEFAULT), H5Dclose);
  if (!dataset.valid()) {
    H5Eclear2(H5E_DEFAULT);
    fail("the dataset is missing", name, fmt::format("datasets: {}", fmt::join(datasets(), ", ")));
  }
  DatasetInfo info;
  const Handle type(H5Dget_type(dataset), H5Tclose);
  bool known = false;
  for (DType candidate : {DType::f32, DType::f64, DType::i32, DType::i64, DType::u8, DType::u16, DType::i8})
    if (H5Tequal(type, file_type(candidate)) > 0) info.dtype = candidate, known = true;
  if (!known)
    fail("the dataset has an unsupported element type", name, "another HDF5 type",
         "little-endian f32, f64, i32, i64, u8, u16, i8");
  if (info.dtype == DType::u16 && has_attribute(name, "dtype") && string_attribute(name, "dtype") == "bf16")
    info.dtype = DType::bf16;

  const Handle space(H5Dget_space(dataset), H5Sclose);
  const std::vector<hsize_t> sizes = extents(space);
  uint64_t elements = 1;
  bool bounded = sizes.size() == 1 || sizes.size() == 2;
  for (hsize_t size : sizes) bounded = bounded && !__builtin_mul_overflow(elements, size, &elements);
  if (!bounded || elements > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()) / 8)
    fail("the dataset has an unsupported shape", name, fmt::format("[{}]", fmt::join(sizes, ", ")),
         "one or two dimensions");
  info.shape.assign(sizes.begin(), sizes.end());

  const Handle creation(H5Dget_create_plist(dataset), H5Pclose);
  if (H5Pget_layout(creation) != H5D_CONTIGUOUS || H5Pget_external_count(creation) != 0)
    fail("the dataset is not stored in one piece", name, "chunked, compact, virtual or external", "contiguous");
  const haddr_t offset = H5Dget_offset(dataset);
  if (offset != HADDR_UNDEF) info.offset = static_cast<int64_t>(offset);
  H5Eclear2(H5E_DEFAULT);
  return info;
}

bool File::contains(const std::string& name) {
  const std::lock_guard lock(library_mutex());
  const Handle object(H5Oopen(id_, name.c_str(), H5P_DEFAULT), H5Oclose);
  H5Eclear2(H5E_DEFAULT);
  return object.valid() && H5Iget_type(object) == H5I_DATASET;
}

std::vector<std::string> File::datasets() {
  const std::lock_guard lock(library_mutex());
  std::vector<std::string> names;
  auto collect = [](hid_t group, const char* name, const H5L_info_t*, void* out) -> herr_t {
    const Handle object(H5Oopen(group, name, H5P_DEFAULT), H5Oclose);
    if (object.valid() && H5Iget_type(object) == H5I_DATASET)
      static_cast<std::vector<std::string>*>(out)->push_back(name);
    return 0;
  };
  if (H5Lvisit(id_, H5_INDEX_NAME, H5_ITER_INC, collect, &names) < 0) fail("cannot list the datasets", {});
  std::sort(names.begin(), names.end());
  return names;
}

// Attributes
// -----------------------------------------------------------------------------------------------------------

namespace {

bool write_attribute(hid_t file, const std::string& object, const std::string& name, hid_t type, const void* value) {
  const Handle owner(H5Oopen(file, object_path(object), H5P_DEFAULT), H5Oclose);
  const Handle space(H5Screate(H5S_SCALAR), H5Sclose);
  if (!owner.valid()) return false;
  if (H5Aexists(owner, name.c_str()) > 0) H5Adelete(owner, name.c_str());
  const Handle attribute(H5Acreate2(owner, name.c_str(), type, space, H5P_DEFAULT, H5P_DEFAULT), H5Aclose);
  return attribute.valid() && H5Awrite(attribute, type, value) >= 0;
}

}  // namespace

void File::set_attribute(const std::string& object, const std::string& name, int64_t value) {
  const std::lock_guard lock(library_mutex());
  if (!write_attribute(id_, object, name, H5T_STD_I64LE, &value)) fail("cannot write the attribute " + name, object);
}

void File::set_attribute(const std::string& object, const std::string& name, std::string_view text) {
  const std::lock_guard lock(library_mutex());
  if (text.size() > largest_text || text.find('\0') != std::string_view::npos)
    fail("cannot write the attribute " + name, object, fmt::format("{} bytes", text.size()),
         fmt::format("at most {} bytes without zeros", largest_text));
  std::string padded(text);
  padded.resize(std::max<size_t>(padded.size(), 1));  // HDF5 has no strings of size 0
  const Handle type(H5Tcopy(H5T_C_S1), H5Tclose);
  H5Tset_size(type, padded.size());
  H5Tset_strpad(type, H5T_STR_NULLPAD);
  H5Tset_cset(type, H5T_CSET_UTF8);
  if (!write_attribute(id_, object, name, type, padded.data())) fail("cannot write the attribute " + name, object);
}

int64_t File::integer_attribute(const std::string& object, const std::string& name) {
  const std::lock_guard lock(library_mutex());
  int64_t value = 0;
  const Handle attribute(H5Aopen_by_name(id_, object_path(object), name.c_str(), H5P_DEFAULT, H5P_DEFAULT), H5Aclose);
  if (!attribute.valid()) fail("the attribute " + name + " is missing", object);
  const Handle type(H5Aget_type(attribute), H5Tclose);
  const Handle space(H5Aget_space(attribute), H5Sclose);
  if (H5Tget_class(type) != H5T_INTEGER || H5Sget_simple_extent_npoints(space) != 1 ||
      H5Aread(attribute, H5T_NATIVE_INT64, &value) < 0)
    fail("the attribute " + name + " is not an integer", object);
  return value;
}

std::string File::string_attribute(const std::string& object, const std::string& name) {
  const std::lock_guard lock(library_mutex());
  const Handle attribute(H5Aopen_by_name(id_, object_path(object), name.c_str(), H5P_DEFAULT, H5P_DEFAULT), H5Aclose);
  if (!attribute.valid()) fail("the attribute " + name + " is missing", object);
  const Handle type(H5Aget_type(attribute), H5Tclose);
  const Handle space(H5Aget_space(attribute), H5Sclose);
  const bool fixed = H5Tget_class(type) == H5T_STRING && H5Tis_variable_str(type) == 0;
  std::string text(fixed ? std::min(H5Tget_size(type), largest_text) : 0, '\0');
  if (!fixed || H5Sget_simple_extent_npoints(space) != 1 || H5Tget_size(type) > largest_text ||
      H5Aread(attribute, type, text.data()) < 0)
    fail("the attribute " + name + " is not a text of fixed length", object);
  text.resize(std::min(text.find('\0'), text.size()));
  return text;
}

bool File::has_attribute(const std::string& object, const std::string& name) {
  const std::lock_guard lock(library_mutex());
  const htri_t exists = H5Aexists_by_name(id_, object_path(object), name.c_str(), H5P_DEFAULT);
  H5Eclear2(H5E_DEFAULT);
  return exists > 0;
}

}  // namespace nibble::hdf5
