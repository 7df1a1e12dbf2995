#include "tensor/caught_error.hpp"

#include <filesystem>
#include <new>

namespace nibble {
namespace {

Error defect(const std::string& what) {
  return Error({.kind = ErrorKind::internal,
                .what = what,
                .next = "this is a defect of Nibble: please report it with the command and its output"});
}

}  // namespace

Error caught_error() {
  try {
    throw;
  } catch (const Error& error) {
    return error;
  } catch (const std::bad_alloc&) {
    return Error({.kind = ErrorKind::resource,
                  .what = "out of memory",
                  .next = "lower batch.micro, set model.recompute=block, or choose a smaller model"});
  } catch (const std::filesystem::filesystem_error& error) {
    return Error({.kind = ErrorKind::resource,
                  .what = "a file or folder cannot be used",
                  .where = error.path1().string(),
                  .seen = error.code().message(),
                  .next = "check the path and the permissions of the folders in it"});
  } catch (const std::exception& error) {
    return defect(error.what());
  } catch (...) {
    return defect("an exception of an unknown type");
  }
}

}  // namespace nibble
