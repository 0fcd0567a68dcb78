// Runs kernels on the host: the items of a group are fibres of one thread, which go on in a shuffled order from one barrier
// to the next. A missing barrier shows as a result that depends on the order; items that do not all meet at the same one
// are an error. Shared memory is garbage when a group begins.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>
#include <utility>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define FIBRES_SHARED static  // between red zones, which are worth more than garbage
#else
#define FIBRES_SHARED static __attribute__((section("fibres_shared")))
extern char __start_fibres_shared[] __attribute__((weak, visibility("hidden")));
extern char __stop_fibres_shared[] __attribute__((weak, visibility("hidden")));
#endif

namespace fibres {

const size_t STACK = 256 * 1024;
const int ENDED = -1;

struct Fibre {
    ucontext_t context;
    char *stack;
    void *fake;
    int line;  // of the barrier where it waits, or ENDED
};

int group, item, group_items;
static Fibre *all, *current;
static int n_all;
static ucontext_t home;
#if defined(__SANITIZE_ADDRESS__)
static void *home_fake;
static const void *home_stack;
static size_t home_size;
#endif
static void (*body)(void **);
static void **arguments;

static void leave(Fibre *fibre, [[maybe_unused]] bool ended) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(ended ? 0 : &fibre->fake, home_stack, home_size);
#endif
    swapcontext(&fibre->context, &home);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fibre->fake, &home_stack, &home_size);
#endif
}

static void begin() {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(0, &home_stack, &home_size);
#endif
    Fibre *mine = current;
    body(arguments);
    mine->line = ENDED;
    leave(mine, true);
}

static void enter(int i) {
    current = &all[i];
    item = i;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&home_fake, current->stack, STACK);
#endif
    swapcontext(&home, &current->context);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(home_fake, 0, 0);
#endif
}

static inline void meet(int line) {
    Fibre *mine = current;
    mine->line = line;
    leave(mine, false);
}

static void shuffle(int *order, int n, unsigned *seed) {
    for (int i = 0; i < n; ++i) order[i] = i;
    for (int i = n - 1; i > 0; --i) {
        *seed = *seed * 1664525u + 1013904223u;
        int j = (int)((*seed >> 8) % (unsigned)(i + 1)), kept = order[i];
        order[i] = order[j];
        order[j] = kept;
    }
}

static void reserve(int n) {
    if (n <= n_all) return;
    all = (Fibre *)realloc(all, sizeof(Fibre) * (size_t)n);
    for (int i = n_all; i < n; ++i) all[i].stack = (char *)malloc(STACK);
    n_all = n;
}

static void start(int i) {
    Fibre *fibre = &all[i];
    getcontext(&fibre->context);
    fibre->context.uc_stack.ss_sp = fibre->stack;
    fibre->context.uc_stack.ss_size = STACK;
    fibre->context.uc_link = &home;
    fibre->line = 0;
    fibre->fake = 0;
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(fibre->stack, STACK);  // of what ran there before
#endif
    makecontext(&fibre->context, begin, 0);
}

// 0, or -1 with what is wrong in `wrong`.
static int run(void (*kernel)(void **), int n_group, int n_item, void **given, unsigned seed, char *wrong, int room) {
    body = kernel;
    arguments = given;
    group_items = n_item;
    reserve(n_item);
    int *groups = (int *)malloc(sizeof(int) * (size_t)n_group), *order = (int *)malloc(sizeof(int) * (size_t)n_item);
    int failed = 0;
    shuffle(groups, n_group, &seed);
    for (int g = 0; g < n_group && !failed; ++g) {
        group = groups[g];
#if !defined(__SANITIZE_ADDRESS__)
        if (__start_fibres_shared)
            memset(__start_fibres_shared, 0xff, (size_t)(__stop_fibres_shared - __start_fibres_shared));
#endif
        for (int i = 0; i < n_item; ++i) start(i);
        for (int ended = 0; !ended && !failed;) {
            shuffle(order, n_item, &seed);
            for (int i = 0; i < n_item; ++i) enter(order[i]);
            ended = all[0].line == ENDED;
            for (int i = 1; i < n_item && !failed; ++i)
                if (all[i].line != all[0].line) {
                    failed = -1;
                    snprintf(wrong, (size_t)room, "group %d: items 0 and %d part at lines %d and %d (%d: the end)", group,
                             i, all[0].line, all[i].line, ENDED);
                }
        }
    }
    free(groups);
    free(order);
    return failed;
}

template <class... A, size_t... I>
static void call(void (*kernel)(A...), void **given, std::index_sequence<I...>) {
    kernel(*(A *)given[I]...);
}

template <class... A>
static void call(void (*kernel)(A...), void **given) {
    call(kernel, given, std::index_sequence_for<A...>());
}

}  // namespace fibres

// What the host calls for a kernel: pointers to its arguments, and room for what is wrong.
#define FIBRES_RUN(name)                                                                                          \
    extern "C" int run_##name(int n_group, int n_item, void **given, unsigned seed, char *wrong, int room) {      \
        return fibres::run([](void **a) { fibres::call(name, a); }, n_group, n_item, given, seed, wrong, room);   \
    }
