// Packing weights into panels.
#include "cpu/unit-inl.h"
#include "formats/expand.h"
#include "formats/packing.h"
#include "formats/quants.h"

namespace lk::cpu {
namespace {
#include "cpu/layout-inl.h"
#include "cpu/transpose-inl.h"
#include "cpu/pack-inl.h"

int64_t panel_bytes(const WeightView& w) {
    if (w.kind == WeightKind::quantised) return panel_size(kFormats[int(w.packing)], w.n_in);
    const int64_t pairs = (w.n_in + 1) / 2;
    return (w.kind == WeightKind::f32 ? w.n_in * 4 : w.kind == WeightKind::bf16 ? pairs * 4 : w.n_in * 2) * kLanes;
}
}  // namespace

void LK_FILL(pack)(KernelTable& table);
void LK_FILL(pack)(KernelTable& table) {
    table.pack_panel = pack_panel;
    table.panel_bytes = panel_bytes;
}

}  // namespace lk::cpu
