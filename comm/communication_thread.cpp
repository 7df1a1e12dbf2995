#include "comm/communication_thread.hpp"

#include <chrono>
#include <utility>

#include "tensor/cuda/mark.hpp"
#include "tensor/stream.hpp"

namespace nibble {
namespace {

double seconds_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

}  // namespace

CommunicationThread::CommunicationThread(const std::function<std::unique_ptr<Communicator>()>& make)
    : exceptions_at_start_(std::uncaught_exceptions()) {
  thread_ = std::thread([this, make] { serve(make); });
  std::unique_lock lock(mutex_);
  done_.wait(lock, [this] { return started_; });
  if (!failure_) return;
  lock.unlock();
  thread_.join();
  std::rethrow_exception(failure_);
}

CommunicationThread::~CommunicationThread() {
  if (std::uncaught_exceptions() > exceptions_at_start_) abandon();
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  submitted_.notify_all();
  thread_.join();
}

void CommunicationThread::change(const Remake& make, cuda::Queue* computing) {
  const auto set_queue = [this](cuda::Queue* queue) {
    const std::lock_guard lock(mutex_);
    computing_ = queue;
  };
  set_queue(nullptr);
  run([&](Communicator&) {
    std::shared_ptr<Communicator> made = make(communicator_);
    const std::lock_guard lock(mutex_);
    communicator_ = std::move(made);
  });
  set_queue(computing);
}

Stream* CommunicationThread::stream() const {
  const std::lock_guard lock(mutex_);
  return communicator_ ? communicator_->stream() : nullptr;
}

CommunicationThread::Ticket CommunicationThread::submit(Job job) {
  const std::lock_guard lock(mutex_);
  jobs_.push_back({std::move(job), computing_ ? cuda::mark(*computing_) : nullptr});
  submitted_.notify_all();
  return next_ticket_++;
}

void CommunicationThread::wait(Ticket ticket) {
  std::unique_lock lock(mutex_);
  const auto over = [&] { return failure_ || first_undone_ > ticket; };
  if (!over()) {
    const auto begin = std::chrono::steady_clock::now();
    done_.wait(lock, over);
    totals_.seconds_waited += seconds_since(begin);
  }
  if (failure_) std::rethrow_exception(failure_);
}

void CommunicationThread::settle() noexcept {
  if (std::uncaught_exceptions() > exceptions_at_start_) abandon();
  std::unique_lock lock(mutex_);
  done_.wait(lock, [this] { return failure_ || first_undone_ == next_ticket_; });
}

void CommunicationThread::abandon() {
  const std::lock_guard lock(mutex_);
  if (communicator_) communicator_->abandon();
}

CommunicationThread::Totals CommunicationThread::totals() const {
  const std::lock_guard lock(mutex_);
  return totals_;
}

void CommunicationThread::serve(const std::function<std::unique_ptr<Communicator>()>& make) {
  std::unique_ptr<Communicator> made;
  std::exception_ptr failure;
  try {
    made = make();
  } catch (...) {
    failure = std::current_exception();
  }
  {
    const std::lock_guard lock(mutex_);
    started_ = true;
    failure_ = failure;
    communicator_ = std::move(made);
    if (communicator_) {
      rank_ = communicator_->rank();
      size_ = communicator_->size();
    }
    done_.notify_all();
  }
  if (failure) return;
  run_jobs();
  // Leaving the others may take as long as they need, and others may abandon this rank meanwhile.
  std::shared_ptr<Communicator> leaving;
  {
    const std::lock_guard lock(mutex_);
    leaving = std::move(communicator_);
  }
}

void CommunicationThread::run_jobs() {
  std::unique_lock lock(mutex_);
  while (true) {
    submitted_.wait(lock, [this] { return stop_ || !jobs_.empty(); });
    if (jobs_.empty() || failure_) {
      if (stop_) return;
      jobs_.clear();  // behind a failure nothing runs
      continue;
    }
    {
      const Submitted next = std::move(jobs_.front());
      jobs_.pop_front();
      std::shared_ptr<Communicator> communicator = communicator_;
      lock.unlock();
      const auto begin = std::chrono::steady_clock::now();
      std::exception_ptr failure;
      try {
        if (next.computed) cuda::begin_after(communicator->stream()->queue(), *next.computed);
        next.job(*communicator);
        communicator->wait();
      } catch (...) {
        failure = std::current_exception();
        communicator->abandon();
      }
      const double seconds = seconds_since(begin);
      const uint64_t bytes_sent = communicator->bytes_sent();
      communicator.reset();  // the last one of a communicator that was changed may wait for other ranks
      lock.lock();
      failure_ = failure;
      totals_.seconds_busy += seconds;
      totals_.bytes_sent = bytes_sent;
      ++first_undone_;
    }
    done_.notify_all();
  }
}

}  // namespace nibble
