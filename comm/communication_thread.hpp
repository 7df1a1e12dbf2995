// The communication thread: the only caller of a rank's communicator, with one first-in-first-out queue.
//
// Jobs run one after the other in the order in which they were submitted; since every rank submits the same jobs in the
// same order, blocking collectives meet. They go on while the caller computes (Open MPI's non-blocking collectives make
// no progress by themselves).
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

#include "comm/communicator.hpp"

namespace nibble {

namespace cuda {
class Mark;
class Queue;
}  // namespace cuda

class CommunicationThread {
 public:
  using Job = std::function<void(Communicator&)>;
  using Ticket = int64_t;

  /// `make` runs on the thread, and so does the communicator's destructor: MPI wants to be finalised by the thread that
  /// initialised it. Throws what `make` throws.
  explicit CommunicationThread(const std::function<std::unique_ptr<Communicator>()>& make);
  /// Finishes what was submitted, unless a job has failed. If an exception is on its way through the owner, the other
  /// ranks will not get what they wait for, and this one does not wait for them: it abandons the communicator.
  ~CommunicationThread();
  CommunicationThread(const CommunicationThread&) = delete;
  CommunicationThread& operator=(const CommunicationThread&) = delete;

  int rank() const { return rank_; }
  int size() const { return size_; }

  /// From the next job on the communicator is what `make`, a job too, makes of it. If that is a device's, each job's
  /// work there begins after what `computing` had to do when it was submitted, and is done before the job is; the queue
  /// outlives that communicator. Throws what `make` throws.
  using Remake = std::function<std::shared_ptr<Communicator>(std::shared_ptr<Communicator>)>;
  void change(const Remake& make, cuda::Queue* computing = nullptr);
  /// Of the communicator (Communicator::stream): where jobs queue work.
  Stream* stream() const;

  /// Tickets ascend by one. What the job refers to must live until it is done.
  Ticket submit(Job job);
  /// Returns when the job and all before it are done. Throws what the first failing job threw, at every wait from then
  /// on; jobs behind it do not run, and its communicator is abandoned.
  void wait(Ticket ticket);
  /// Returns when no job is left: for the destructors of what jobs refer to. If an exception is on its way through the
  /// caller, the other ranks will not get what they wait for, and the communicator is abandoned first.
  void settle() noexcept;
  /// Submits and waits.
  void run(Job job) { wait(submit(std::move(job))); }

  /// The running job and all behind it fail; the destructor waits for nobody. Any thread may call it.
  void abandon();

  /// Of all jobs that are done.
  struct Totals {
    double seconds_busy = 0;    ///< the thread worked
    double seconds_waited = 0;  ///< `wait` was waiting: communication that nothing hid
    uint64_t bytes_sent = 0;
  };
  Totals totals() const;

 private:
  struct Submitted {
    Job job;
    std::shared_ptr<const cuda::Mark> computed{};  ///< what its work on a device comes after
  };

  void serve(const std::function<std::unique_ptr<Communicator>()>& make);
  void run_jobs();

  int rank_ = 0, size_ = 1;
  int exceptions_at_start_;
  mutable std::mutex mutex_;
  std::condition_variable submitted_, done_;
  std::shared_ptr<Communicator> communicator_;  ///< changed by the thread alone
  cuda::Queue* computing_ = nullptr;
  std::deque<Submitted> jobs_;
  Ticket next_ticket_ = 0, first_undone_ = 0;
  std::exception_ptr failure_;
  bool started_ = false, stop_ = false;
  Totals totals_;
  std::thread thread_;
};

}  // namespace nibble
