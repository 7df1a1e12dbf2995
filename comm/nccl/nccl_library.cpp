// NCCL's functions that nccl_communicator.cpp calls, of the library that is there when the program runs.
//
// Loaded when it is first asked for: a program that was built with nccl.h starts, and trains on one GPU or over the
// host, where nobody has installed NCCL; so it can be built on one machine and carried to another. The symbols are this
// program's own (hidden), and the library does not see them.
#include <nccl.h>

#include "comm/device_communicator.hpp"
#include "tensor/shared_library.hpp"

namespace {

class Library : public nibble::SharedLibrary {
  Library() : SharedLibrary("libnccl.so.2") {}

 public:
  static const Library& loaded() {
    static const Library library;
    return library;
  }

  decltype(&ncclGetUniqueId) get_unique_id = find<decltype(&ncclGetUniqueId)>("ncclGetUniqueId");
  decltype(&ncclCommInitRankConfig) init = find<decltype(&ncclCommInitRankConfig)>("ncclCommInitRankConfig");
  decltype(&ncclCommGetAsyncError) async_error = find<decltype(&ncclCommGetAsyncError)>("ncclCommGetAsyncError");
  decltype(&ncclCommFinalize) finalize = find<decltype(&ncclCommFinalize)>("ncclCommFinalize");
  decltype(&ncclCommDestroy) destroy = find<decltype(&ncclCommDestroy)>("ncclCommDestroy");
  decltype(&ncclCommAbort) abort = find<decltype(&ncclCommAbort)>("ncclCommAbort");
  decltype(&ncclGetErrorString) error_string = find<decltype(&ncclGetErrorString)>("ncclGetErrorString");
  decltype(&ncclGetLastError) last_error = find<decltype(&ncclGetLastError)>("ncclGetLastError");
  decltype(&ncclGroupStart) group_start = find<decltype(&ncclGroupStart)>("ncclGroupStart");
  decltype(&ncclGroupEnd) group_end = find<decltype(&ncclGroupEnd)>("ncclGroupEnd");
  decltype(&ncclSend) send = find<decltype(&ncclSend)>("ncclSend");
  decltype(&ncclRecv) receive = find<decltype(&ncclRecv)>("ncclRecv");
  decltype(&ncclAllReduce) all_reduce = find<decltype(&ncclAllReduce)>("ncclAllReduce");
};

}  // namespace

std::string nibble::why_no_nccl() { return Library::loaded().missing(); }

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) { return Library::loaded().get_unique_id(id); }
ncclResult_t ncclCommInitRankConfig(ncclComm_t* communicator, int ranks, ncclUniqueId id, int rank,
                                    ncclConfig_t* config) {
  return Library::loaded().init(communicator, ranks, id, rank, config);
}
ncclResult_t ncclCommGetAsyncError(ncclComm_t communicator, ncclResult_t* error) {
  return Library::loaded().async_error(communicator, error);
}
ncclResult_t ncclCommFinalize(ncclComm_t communicator) { return Library::loaded().finalize(communicator); }
ncclResult_t ncclCommDestroy(ncclComm_t communicator) { return Library::loaded().destroy(communicator); }
ncclResult_t ncclCommAbort(ncclComm_t communicator) { return Library::loaded().abort(communicator); }
const char* ncclGetErrorString(ncclResult_t result) { return Library::loaded().error_string(result); }
const char* ncclGetLastError(ncclComm_t communicator) { return Library::loaded().last_error(communicator); }
ncclResult_t ncclGroupStart() { return Library::loaded().group_start(); }
ncclResult_t ncclGroupEnd() { return Library::loaded().group_end(); }
ncclResult_t ncclSend(const void* memory, size_t count, ncclDataType_t type, int peer, ncclComm_t communicator,
                      cudaStream_t stream) {
  return Library::loaded().send(memory, count, type, peer, communicator, stream);
}
ncclResult_t ncclRecv(void* memory, size_t count, ncclDataType_t type, int peer, ncclComm_t communicator,
                      cudaStream_t stream) {
  return Library::loaded().receive(memory, count, type, peer, communicator, stream);
}
ncclResult_t ncclAllReduce(const void* from, void* to, size_t count, ncclDataType_t type, ncclRedOp_t how,
                           ncclComm_t communicator, cudaStream_t stream) {
  return Library::loaded().all_reduce(from, to, count, type, how, communicator, stream);
}
