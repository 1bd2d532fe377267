// Sums vectors over the GPUs of all processes with NCCL; XLA programs call it in every step. Built where Horovod gets
// NCCL, and only ever compiled, never run: docs/gpus.md says how to try it.

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>

#include <nccl.h>

#include "xla/service/custom_call_target_registry.h"

namespace {

ncclUniqueId id;
int own_rank = 0, num_ranks = 0;
ncclComm_t communicator = nullptr;
std::atomic<int> failure{ncclSuccess};

void keep(ncclResult_t result) {
  if (result != ncclSuccess && result != ncclInProgress) failure.store(result);
}

// What XLA calls: the operand, float32 [n], and the result, float32 [n], on the device, and n as decimal text. The first
// call joins the others, since XLA has made this process's device the current one here.
void sum_in_xla(cudaStream_t stream, void** buffers, const char* text, size_t size, void*) {
  const int64_t count = std::strtoll(std::string(text, size).c_str(), nullptr, 10);
  if (communicator == nullptr) keep(ncclCommInitRank(&communicator, num_ranks, id, own_rank));
  if (failure.load() == ncclSuccess) keep(ncclAllReduce(buffers[0], buffers[1], count, ncclFloat32, ncclSum, communicator, stream));
}

}  // namespace

extern "C" {

int disttrain_nccl_id_bytes() { return sizeof(ncclUniqueId); }

// Makes what the processes know each other by; one of them does so, for all.
int disttrain_nccl_make_id(char* made) {
  const ncclResult_t result = ncclGetUniqueId(&id);
  std::memcpy(made, &id, sizeof(id));
  return result;
}

void disttrain_nccl_join(const char* made, int rank, int size) {
  std::memcpy(&id, made, sizeof(id));
  own_rank = rank;
  num_ranks = size;
}

// Returns NCCL's error of this process or of one that it waits for, or 0.
int disttrain_nccl_failure() {
  ncclResult_t result = ncclSuccess;
  if (communicator != nullptr && ncclCommGetAsyncError(communicator, &result) == ncclSuccess) keep(result);
  return failure.load();
}

const char* disttrain_nccl_text(int result) { return ncclGetErrorString(static_cast<ncclResult_t>(result)); }

void disttrain_nccl_leave() {
  if (communicator != nullptr) ncclCommAbort(communicator);
  communicator = nullptr;
}

void disttrain_nccl_register(const char* name) {
  xla::CustomCallTargetRegistry::Global()->Register(name, reinterpret_cast<void*>(&sum_in_xla), "CUDA");
}

}  // extern "C"
