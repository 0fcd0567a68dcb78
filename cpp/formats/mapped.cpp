#include "formats/mapped.h"

#include <array>
#include <atomic>
#include <mutex>

#ifndef _WIN32
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace lk::formats {

#ifdef _WIN32

size_t watch(const void*, size_t) {
    return 0;
}
void forget(size_t) {}
uint64_t lost_pages(size_t) {
    return 0;
}

#else

namespace {

struct Watched {
    std::atomic<uintptr_t> begin{0};  // 0: free
    std::atomic<uintptr_t> end{0};
    std::atomic<uint64_t> lost{0};
};

std::array<Watched, 8192> table;  // models of hundreds of files, several at once
std::mutex changing;
struct sigaction before;
uintptr_t page_size = 4096;
bool installed = false;

Watched* find(uintptr_t address) {
    for (Watched& each : table)
        if (each.begin != 0 && address >= each.begin && address < each.end) return &each;
    return nullptr;
}

// Runs in the thread that read; mmap is a plain system call, and nothing here takes a lock.
void on_bus_error(int, siginfo_t* info, void*) {
    const auto address = uintptr_t(info->si_addr);
    Watched* found = find(address);
    void* page = reinterpret_cast<void*>(address & ~(page_size - 1));
    if (found != nullptr &&
        mmap(page, page_size, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED) {
        ++found->lost;
        return;  // the instruction is tried again, and reads zeros
    }
    sigaction(SIGBUS, &before, nullptr);  // somebody else's: what was there before deals with it
}

void install() {
    if (installed) return;
    page_size = uintptr_t(sysconf(_SC_PAGESIZE));
    struct sigaction action = {};
    action.sa_sigaction = on_bus_error;
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    sigemptyset(&action.sa_mask);
    installed = sigaction(SIGBUS, &action, &before) == 0;
}

}  // namespace

size_t watch(const void* begin, size_t size) {
    const std::lock_guard lock(changing);
    install();
    for (size_t i = 0; installed && i < table.size(); ++i)
        if (table[i].begin == 0) {
            table[i].lost = 0;
            table[i].end = uintptr_t(begin) + size;
            table[i].begin = uintptr_t(begin);
            return i + 1;
        }
    return 0;
}

void forget(size_t number) {
    const std::lock_guard lock(changing);
    if (number > 0 && number <= table.size()) table[number - 1].begin = 0;
}

uint64_t lost_pages(size_t number) {
    return number > 0 && number <= table.size() ? table[number - 1].lost.load() : 0;
}

#endif

}  // namespace lk::formats
