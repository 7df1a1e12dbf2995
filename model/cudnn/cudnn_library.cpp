// cuDNN's functions that its frontend calls, of the library that is there when the program runs.
//
// Loaded when it is first asked for: a program that was built with cuDNN's frontend starts, and computes attention
// itself, where nobody has installed cuDNN (comm/nccl/nccl_library.cpp does so with NCCL). The symbols are this
// program's own (hidden), and the library does not see them.
#include <cudnn.h>

#include "model/cudnn/cudnn_attention.hpp"
#include "tensor/shared_library.hpp"

namespace {

class Library : public nibble::SharedLibrary {
  static_assert(CUDNN_MAJOR == 9);

  Library() : SharedLibrary("libcudnn.so.9") {}

 public:
  static const Library& loaded() {
    static const Library library;
    return library;
  }

  decltype(&cudnnGetVersion) version = find<decltype(&cudnnGetVersion)>("cudnnGetVersion");
  decltype(&cudnnGetErrorString) error_string = find<decltype(&cudnnGetErrorString)>("cudnnGetErrorString");
  decltype(&cudnnGetLastErrorString) last_error = find<decltype(&cudnnGetLastErrorString)>("cudnnGetLastErrorString");
  decltype(&cudnnCreate) create = find<decltype(&cudnnCreate)>("cudnnCreate");
  decltype(&cudnnDestroy) destroy = find<decltype(&cudnnDestroy)>("cudnnDestroy");
  decltype(&cudnnSetStream) set_stream = find<decltype(&cudnnSetStream)>("cudnnSetStream");
  decltype(&cudnnGetStream) get_stream = find<decltype(&cudnnGetStream)>("cudnnGetStream");
  decltype(&cudnnBackendCreateDescriptor) create_descriptor =
      find<decltype(&cudnnBackendCreateDescriptor)>("cudnnBackendCreateDescriptor");
  decltype(&cudnnBackendDestroyDescriptor) destroy_descriptor =
      find<decltype(&cudnnBackendDestroyDescriptor)>("cudnnBackendDestroyDescriptor");
  decltype(&cudnnBackendFinalize) finalize = find<decltype(&cudnnBackendFinalize)>("cudnnBackendFinalize");
  decltype(&cudnnBackendSetAttribute) set_attribute =
      find<decltype(&cudnnBackendSetAttribute)>("cudnnBackendSetAttribute");
  decltype(&cudnnBackendGetAttribute) get_attribute =
      find<decltype(&cudnnBackendGetAttribute)>("cudnnBackendGetAttribute");
  decltype(&cudnnBackendExecute) execute = find<decltype(&cudnnBackendExecute)>("cudnnBackendExecute");
};

}  // namespace

std::string nibble::cuda::why_no_cudnn() { return Library::loaded().missing(); }

size_t cudnnGetVersion() { return Library::loaded().version(); }
const char* cudnnGetErrorString(cudnnStatus_t status) { return Library::loaded().error_string(status); }
void cudnnGetLastErrorString(char* message, size_t most) { Library::loaded().last_error(message, most); }
cudnnStatus_t cudnnCreate(cudnnHandle_t* handle) { return Library::loaded().create(handle); }
cudnnStatus_t cudnnDestroy(cudnnHandle_t handle) { return Library::loaded().destroy(handle); }
cudnnStatus_t cudnnSetStream(cudnnHandle_t handle, cudaStream_t stream) {
  return Library::loaded().set_stream(handle, stream);
}
cudnnStatus_t cudnnGetStream(cudnnHandle_t handle, cudaStream_t* stream) {
  return Library::loaded().get_stream(handle, stream);
}
cudnnStatus_t cudnnBackendCreateDescriptor(cudnnBackendDescriptorType_t type, cudnnBackendDescriptor_t* descriptor) {
  return Library::loaded().create_descriptor(type, descriptor);
}
cudnnStatus_t cudnnBackendDestroyDescriptor(cudnnBackendDescriptor_t descriptor) {
  return Library::loaded().destroy_descriptor(descriptor);
}
cudnnStatus_t cudnnBackendFinalize(cudnnBackendDescriptor_t descriptor) {
  return Library::loaded().finalize(descriptor);
}
cudnnStatus_t cudnnBackendSetAttribute(cudnnBackendDescriptor_t descriptor, cudnnBackendAttributeName_t name,
                                       cudnnBackendAttributeType_t type, int64_t count, const void* elements) {
  return Library::loaded().set_attribute(descriptor, name, type, count, elements);
}
cudnnStatus_t cudnnBackendGetAttribute(cudnnBackendDescriptor_t const descriptor, cudnnBackendAttributeName_t name,
                                       cudnnBackendAttributeType_t type, int64_t most, int64_t* count, void* elements) {
  return Library::loaded().get_attribute(descriptor, name, type, most, count, elements);
}
cudnnStatus_t cudnnBackendExecute(cudnnHandle_t handle, cudnnBackendDescriptor_t plan,
                                  cudnnBackendDescriptor_t variants) {
  return Library::loaded().execute(handle, plan, variants);
}
