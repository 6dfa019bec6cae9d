// SPDX-License-Identifier: Apache-2.0
#include "pool.hpp"

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <new>
#include <thread>
#include <vector>

#ifndef _WIN32
#include <dlfcn.h>
#include <pthread.h>
#endif

namespace sk {
namespace {

// Spinning this often (some 20 microseconds) before sleeping keeps the steps of one call, and calls in a row, together.
constexpr int kSpins = 4000;

inline void pause_thread() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

class Pool {
  public:
    ~Pool() {
        stop.store(true);
        started.fetch_add(1);
        started.notify_all();
        for (std::thread& thread : threads) thread.join();
    }

    void run(int64_t items, int helpers, const Task& work) {
        while (static_cast<int>(threads.size()) < helpers) {
            try {
                threads.emplace_back([this, number = static_cast<int>(threads.size()), seen = started.load()] { serve(number, seen); });
            } catch (const std::exception&) {
                break;  // no thread, or no memory for one: slower, the same result
            }
        }
        helpers = std::min(helpers, static_cast<int>(threads.size()));
        task = &work;
        count = items;
        next.store(0);
        wanted = helpers;
        inside.store(0);
        started.fetch_add(1);
        started.notify_all();
        take(0);
        inside.fetch_or(kClosed);
        for (int spins = 0, now = inside.load(); now != kClosed; now = inside.load()) {
            if (++spins < kSpins) {
                pause_thread();
            } else {
                inside.wait(now);
            }
        }
    }

  private:
    std::vector<std::thread> threads;
    std::atomic<uint32_t> started{0};
    // Threads at work, and whether others may still join them. A call never waits for a thread that has not come yet:
    // one whose core is taken, by the spinning threads of another library for instance, may not come for milliseconds.
    static constexpr int kClosed = 1 << 30;
    std::atomic<int> inside{kClosed};
    std::atomic<int64_t> next{0};
    std::atomic<bool> stop{false};
    const Task* task = nullptr;
    int64_t count = 0;
    int wanted = 0;

    void take(int worker) {
        for (int64_t i = next.fetch_add(1); i < count; i = next.fetch_add(1)) (*task)(i, worker);
    }

    void serve(int number, uint32_t seen) {
        for (;;) {
            for (int spins = 0; started.load() == seen && spins < kSpins; ++spins) pause_thread();
            started.wait(seen);
            seen = started.load();
            if (stop.load()) return;
            if (!enter()) continue;
            if (number < wanted) take(number + 1);
            if (inside.fetch_sub(1) == kClosed + 1) inside.notify_all();
        }
    }

    bool enter() {
        for (int now = inside.load(); (now & kClosed) == 0;) {
            if (inside.compare_exchange_weak(now, now + 1)) return true;
        }
        return false;
    }
};

// A child of fork has no threads: it leaves its parent's pool alone and starts a new one. Nor does it ask an OpenMP runtime,
// which may wait forever for the threads of the parent.
struct Owner {
    std::mutex mutex;
    Pool* pool = nullptr;
    std::atomic<bool> forked{false};
    Owner() {
#ifndef _WIN32
        pthread_atfork([] { owner().mutex.lock(); }, [] { owner().mutex.unlock(); },
                       [] {
                           owner().forked.store(true);
                           owner().pool = nullptr;
                           owner().mutex.unlock();
                       });
#endif
    }
    ~Owner() { delete pool; }
    static Owner& owner() {
        static Owner instance;
        return instance;
    }
};

// At load time, so that no fork goes unnoticed.
[[maybe_unused]] const Owner& watched = Owner::owner();

// The threads of the OpenMP runtime that the process has loaded already, PyTorch's for instance. They spin for a while after
// every parallel piece of their own, and would keep ours from their cores. The entry of libgomp, which other runtimes have
// as well: runs work(data) on so many threads, and waits for all of them.
using Team = void (*)(void (*work)(void*), void* data, unsigned threads, unsigned flags);

Team openmp_team() {
#ifdef _WIN32
    return nullptr;
#else
    static const Team team = reinterpret_cast<Team>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
    return team;
#endif
}

struct Shared {
    const Task& task;
    const int64_t count;
    std::atomic<int64_t> next{0};
    std::atomic<int> workers{0};
};

void take_shared(void* data) {
    Shared& shared = *static_cast<Shared*>(data);
    const int worker = shared.workers.fetch_add(1);
    for (int64_t i = shared.next.fetch_add(1); i < shared.count; i = shared.next.fetch_add(1)) shared.task(i, worker);
}

}  // namespace

void parallel_for(int64_t count, int threads, const Task& task) {
    const int helpers = static_cast<int>(std::min<int64_t>(threads, count)) - 1;
    Owner& owner = Owner::owner();
    if (helpers > 0 && !owner.forked.load() && openmp_team()) {
        Shared shared{task, count};
        openmp_team()(take_shared, &shared, static_cast<unsigned>(helpers) + 1, 0);
        return;
    }
    if (helpers > 0 && owner.mutex.try_lock()) {
        const std::lock_guard guard(owner.mutex, std::adopt_lock);
        if (!owner.pool) owner.pool = new (std::nothrow) Pool;
        if (owner.pool) return owner.pool->run(count, helpers, task);
    }
    for (int64_t i = 0; i < count; ++i) task(i, 0);
}

}  // namespace sk
