// The KV cache and attention.
#include "cpu/unit-inl.h"

namespace lk::cpu {
namespace {
#include "cpu/rows-inl.h"

#include "cpu/kv-inl.h"

#include "cpu/exp2-inl.h"
#include "cpu/attention-inl.h"
}  // namespace

void LK_FILL(attention)(KernelTable& table);
void LK_FILL(attention)(KernelTable& table) {
    table.kv_write = kv_write;
    table.kv_read = kv_read;
    table.attend = attend;
    table.attend_merge = attend_merge;
    table.attend_scratch = attend_scratch;
    table.attend_part = attend_part;
}

}  // namespace lk::cpu
