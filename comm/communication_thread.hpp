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
  void serve(const std::function<std::unique_ptr<Communicator>()>& make);
  void run_jobs(Communicator& communicator);

  int rank_ = 0, size_ = 1;
  int exceptions_at_start_;
  mutable std::mutex mutex_;
  std::condition_variable submitted_, done_;
  std::unique_ptr<Communicator> communicator_;
  std::deque<Job> jobs_;
  Ticket next_ticket_ = 0, first_undone_ = 0;
  std::exception_ptr failure_;
  bool started_ = false, stop_ = false;
  Totals totals_;
  std::thread thread_;
};

}  // namespace nibble
