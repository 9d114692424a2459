// Streams, events and graphs of the stand-in for the CUDA driver: work is kept until somebody waits for it, and then done as late as the
// order between streams allows, so that a missing wait shows as data that is not there yet.
#pragma once
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <vector>

namespace fake {

struct Capture;
struct Stream;

/// A point in a stream, set by recording an event.
struct Mark {
  Stream *stream = nullptr;
  Capture *capture = nullptr;
  bool done = false;
};

/// What a stream does next: work, reach a mark, or wait for one.
struct Step {
  std::function<void()> work;
  std::shared_ptr<Mark> reach, wait;
};

struct Stream {
  std::deque<Step> steps;
  Capture *capture = nullptr;
  /// Of a captured side: whether the origin waits for all that it was given.
  bool is_joined = true;

  /// Does what is waiting, up to `mark` where one is given.
  void run(const Mark *mark = nullptr) {
    while (!steps.empty() && !(mark && mark->done)) {
      const Step step = std::move(steps.front());
      steps.pop_front();
      if (step.wait && !step.wait->done) step.wait->stream->run(step.wait.get());
      if (step.work) step.work();
      if (step.reach) step.reach->done = true;
    }
  }
};

struct Event {
  std::shared_ptr<Mark> mark;
  bool has_timing = true;
  double seconds = 0;
};

/// What streams were given while the first of them was captured.
struct Capture {
  Stream *origin = nullptr;
  bool is_valid = true;
  std::map<Stream *, std::vector<Step>> steps;
};

/// Captured steps, to be done again and again.
struct Graph {
  Stream *origin;
  std::map<Stream *, std::vector<Step>> steps;

  void run() const {
    std::map<Stream *, Stream> streams;
    std::map<Mark *, std::shared_ptr<Mark>> marks;
    for (const auto &[stream, list] : steps) {
      for (const Step &step : list) {
        if (step.reach) marks[step.reach.get()] = std::make_shared<Mark>(Mark{&streams[stream]});
      }
    }
    for (const auto &[stream, list] : steps) {
      for (const Step &step : list) {
        Step copy{step.work, nullptr, nullptr};
        if (step.reach) copy.reach = marks[step.reach.get()];
        if (step.wait) copy.wait = marks[step.wait.get()];
        streams[stream].steps.push_back(copy);
      }
    }
    streams[origin].run();
  }
};

}  // namespace fake
