// Sums vectors over the processes of one machine, through memory that they share. XLA programs call it in every step.
//
// Each process writes its vector into a slot of its own, then stores a number there that only grows. The others wait
// for that number: they spin for some microseconds, then sleep on a futex. All add the slots in the order of ranks, so
// all get the same bits. Each process has two slots in turns: when all have stored number n + 1, all have read the
// slots of number n, so these can be written again. docs/records/collective.md has what was measured.

#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <limits>
#include <string>

#include <algorithm>
#include <atomic>

#include <fcntl.h>
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "xla/service/custom_call_target_registry.h"

namespace {

constexpr long kLookEveryNs = 200L * 1000 * 1000;  // how often a sleeping process looks whether the other one still runs
constexpr int64_t kShareFrom = 1 << 14;            // a sum of so many floats or more is divided among the processes

struct alignas(64) Slot {
  std::atomic<uint32_t> arrived;  // the number of its last meeting
  std::atomic<uint32_t> sleepers;
  std::atomic<int32_t> pid;
};

struct alignas(64) Head {
  std::atomic<uint32_t> lost;  // 1 + the rank of a process that ended; if not 0, nobody waits any more
};

struct Group {
  Head* head = nullptr;
  Slot* slots = nullptr;
  char* data = nullptr;  // [2, size, capacity]
  size_t bytes = 0;
  int64_t capacity = 0;  // bytes of a slot
  int rank = 0, size = 0, spins = 0;
  uint32_t number = 0;  // of the last meeting
} group;

char* slot_of(int rank, uint32_t number) {
  return group.data + ((number & 1) * group.size + rank) * group.capacity;
}

bool has_arrived(const Slot& slot, uint32_t number, std::memory_order order) {
  return static_cast<int32_t>(slot.arrived.load(order) - number) >= 0;
}

void wake_all(std::atomic<uint32_t>* word) { syscall(SYS_futex, word, FUTEX_WAKE, std::numeric_limits<int>::max()); }

void arrive(uint32_t number) {
  Slot& own = group.slots[group.rank];
  own.arrived.store(number, std::memory_order_seq_cst);
  if (own.sleepers.load(std::memory_order_seq_cst) != 0) wake_all(&own.arrived);
}

// Whether a process has ended, even if its parent has not asked yet.
bool has_ended(int pid) {
  if (kill(pid, 0) != 0 && errno == ESRCH) return true;
  char text[512] = {};
  const int descriptor = open(("/proc/" + std::to_string(pid) + "/stat").c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) return false;
  const ssize_t length = read(descriptor, text, sizeof(text) - 1);
  close(descriptor);
  const char* name_end = length > 0 ? std::strrchr(text, ')') : nullptr;  // pid (name) state
  return name_end != nullptr && (name_end[2] == 'Z' || name_end[2] == 'X');
}

// Waits until a process has arrived at a meeting; returns whether it has, rather than ended.
bool wait_for(int rank, uint32_t number) {
  Slot& slot = group.slots[rank];
  for (int spin = 0; spin < group.spins; ++spin) {
    if (has_arrived(slot, number, std::memory_order_acquire)) return true;
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }
  slot.sleepers.fetch_add(1, std::memory_order_seq_cst);
  bool is_there = true;
  while (!has_arrived(slot, number, std::memory_order_seq_cst)) {
    if (group.head->lost.load() != 0) {
      is_there = false;
      break;
    }
    const uint32_t seen = slot.arrived.load(std::memory_order_seq_cst);
    if (static_cast<int32_t>(seen - number) >= 0) break;
    const timespec look = {0, kLookEveryNs};
    if (syscall(SYS_futex, &slot.arrived, FUTEX_WAIT, seen, &look) != 0 && errno == ETIMEDOUT &&
        has_ended(slot.pid.load()) && !has_arrived(slot, number, std::memory_order_seq_cst)) {
      group.head->lost.store(1 + rank);
    }
  }
  slot.sleepers.fetch_sub(1, std::memory_order_seq_cst);
  return is_there;
}

// Waits until all processes have written their slots of this number; returns false if one of them ended.
bool meet(uint32_t number) {
  arrive(number);
  for (int other = 1; other < group.size; ++other) {
    if (!wait_for((group.rank + other) % group.size, number)) return false;
  }
  return true;
}

void add_slots(uint32_t number, int64_t first, int64_t count, float* out) {
  std::memcpy(out, reinterpret_cast<float*>(slot_of(0, number)) + first, count * sizeof(float));
  for (int rank = 1; rank < group.size; ++rank) {
    const float* other = reinterpret_cast<float*>(slot_of(rank, number)) + first;
    for (int64_t i = 0; i < count; ++i) out[i] += other[i];
  }
}

void fill_with_nan(float* out, int64_t count) {
  for (int64_t i = 0; i < count; ++i) out[i] = std::numeric_limits<float>::quiet_NaN();
}

void sum_part(const float* in, float* out, int64_t count) {
  const uint32_t number = ++group.number;
  std::memcpy(slot_of(group.rank, number), in, count * sizeof(float));
  if (!meet(number)) return fill_with_nan(out, count);
  if (count < kShareFrom) return add_slots(number, 0, count, out);
  const int64_t part = (count + group.size - 1) / group.size;
  const auto first_of = [&](int rank) { return std::min<int64_t>(rank * part, count); };
  const int64_t first = first_of(group.rank), own = first_of(group.rank + 1) - first;
  const uint32_t next = ++group.number;
  add_slots(number, first, own, reinterpret_cast<float*>(slot_of(group.rank, next)));
  if (!meet(next)) return fill_with_nan(out, count);
  for (int rank = 0; rank < group.size; ++rank) {
    std::memcpy(out + first_of(rank), slot_of(rank, next), (first_of(rank + 1) - first_of(rank)) * sizeof(float));
  }
}

}  // namespace

extern "C" {

// Returns the bytes of memory that `size` processes share, with slots of `capacity` bytes.
int64_t disttrain_bytes(int size, int64_t capacity) {
  return sizeof(Head) + size * sizeof(Slot) + 2 * size * capacity;
}

// Joins the group whose memory is this file, or becomes a group of one if it is empty; returns 0, or an errno.
int disttrain_join(const char* path, int rank, int size, int64_t capacity, int spins) {
  const bool alone = path[0] == 0;
  const int descriptor = alone ? -1 : open(path, O_RDWR | O_CLOEXEC);
  if (!alone && descriptor < 0) return errno;
  const size_t bytes = disttrain_bytes(size, capacity);
  const int kind = alone ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, kind, descriptor, 0);
  const int failure = memory == MAP_FAILED ? errno : 0;
  if (!alone) close(descriptor);
  if (failure != 0) return failure;
  char* start = static_cast<char*>(memory);
  group = Group();
  group.head = reinterpret_cast<Head*>(start);
  group.slots = reinterpret_cast<Slot*>(start + sizeof(Head));
  group.data = start + sizeof(Head) + size * sizeof(Slot);
  group.bytes = bytes;
  group.capacity = capacity;
  group.rank = rank;
  group.size = size;
  group.spins = spins;
  group.slots[rank].pid.store(getpid());
  return 0;
}

// Returns 1 + the rank of a process that ended while others waited for it, or 0.
int disttrain_lost() { return group.head == nullptr ? 0 : static_cast<int>(group.head->lost.load()); }

// Sums float32 [count] over all processes; the sum is NaN if one of them ended.
void disttrain_sum(const float* in, float* out, int64_t count) {
  const int64_t most = group.capacity / static_cast<int64_t>(sizeof(float));
  for (int64_t first = 0; first < count; first += most) {
    sum_part(in + first, out + first, std::min(most, count - first));
  }
}

// Collects `bytes` bytes, at most a slot's, of every process in the order of ranks; returns 0 if one of them ended.
int disttrain_gather(const char* in, char* out, int64_t bytes) {
  const uint32_t number = ++group.number;
  std::memcpy(slot_of(group.rank, number), in, bytes);
  if (!meet(number)) return 0;
  for (int rank = 0; rank < group.size; ++rank) std::memcpy(out + rank * bytes, slot_of(rank, number), bytes);
  return 1;
}

// Gives all processes the first one's bytes; returns 0 if one of them ended.
int disttrain_broadcast(char* values, int64_t bytes) {
  for (int64_t first = 0; first < bytes; first += group.capacity) {
    const int64_t part = std::min(group.capacity, bytes - first);
    const uint32_t number = ++group.number;
    if (group.rank == 0) std::memcpy(slot_of(0, number), values + first, part);
    if (!meet(number)) return 0;
    if (group.rank != 0) std::memcpy(values + first, slot_of(0, number), part);
  }
  return 1;
}

void disttrain_leave() {
  if (group.head != nullptr) munmap(group.head, group.bytes);
  group.head = nullptr;
}

// What XLA calls: one operand, float32 [n], the result float32 [n], and n as decimal text.
static void disttrain_sum_in_xla(void* out, const void** in, const char* text, size_t size, void*) {
  const int64_t count = std::strtoll(std::string(text, size).c_str(), nullptr, 10);
  disttrain_sum(static_cast<const float*>(in[0]), static_cast<float*>(out), count);
}

void disttrain_register(const char* name) {
  xla::CustomCallTargetRegistry::Global()->Register(name, reinterpret_cast<void*>(&disttrain_sum_in_xla), "Host");
}

}  // extern "C"
