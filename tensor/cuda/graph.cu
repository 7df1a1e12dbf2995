#include "tensor/cuda/graph.hpp"

#include "tensor/cuda/check.cuh"

namespace nibble::cuda {
namespace {

struct Recorded {
  cudaGraph_t graph = nullptr;

  Recorded() = default;
  Recorded(const Recorded&) = delete;
  Recorded& operator=(const Recorded&) = delete;
  ~Recorded() {
    if (graph) cudaGraphDestroy(graph);
  }
};

class CudaGraph final : public Graph {
 public:
  explicit CudaGraph(Queue& queue) : stream_(stream_of(queue)) {}
  CudaGraph(const CudaGraph&) = delete;
  CudaGraph& operator=(const CudaGraph&) = delete;
  ~CudaGraph() override {
    cudaStreamSynchronize(stream_);
    if (executable_) cudaGraphExecDestroy(executable_);
  }

  void run(const std::function<void()>& work) override {
    Recorded recorded;
    record(work, recorded);
    if (executable_ && !takes_over(recorded)) {
      check(cudaStreamSynchronize(stream_), "queued work");
      check(cudaGraphExecDestroy(executable_), "a graph");
      executable_ = nullptr;
    }
    if (!executable_) check(cudaGraphInstantiate(&executable_, recorded.graph, 0), "a graph");
    check(cudaGraphLaunch(executable_, stream_), "launch of a graph");
  }

 private:
  void record(const std::function<void()>& work, Recorded& recorded) const {
    // Calls that a recording must not have are errors for this thread, and go on in others.
    check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "recording of a graph");
    try {
      work();
    } catch (...) {
      cudaStreamEndCapture(stream_, &recorded.graph);
      cudaGetLastError();  // of the recording that was broken off
      throw;
    }
    check(cudaStreamEndCapture(stream_, &recorded.graph), "recording of a graph");
  }

  /// False where it has other kernels, another order of them, or what cannot be taken over.
  bool takes_over(const Recorded& recorded) const {
    cudaGraphExecUpdateResultInfo differs{};
    if (cudaGraphExecUpdate(executable_, recorded.graph, &differs) == cudaSuccess) return true;
    cudaGetLastError();  // what is more than that comes again with the new graph
    return false;
  }

  cudaStream_t stream_;
  cudaGraphExec_t executable_ = nullptr;
};

}  // namespace

std::unique_ptr<Graph> make_graph(Queue& queue) { return std::make_unique<CudaGraph>(queue); }

}  // namespace nibble::cuda
