/* To preload: CLOCK_REALTIME, gettimeofday and time are off by what stands in the file that
 * STEPPED_CLOCK names, a number of milliseconds (int64_t): a test steps the clock as NTP or a user
 * does, under way. A second number in it is how many looks at the clock there are from one step of
 * a second to the next; 0: none. Every other clock is the machine's own. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *offset;
static int64_t looks, steps;

__attribute__((constructor)) static void map(void) {
    const char *path = getenv("STEPPED_CLOCK");
    int fd = path == NULL ? -1 : open(path, O_RDONLY | O_CLOEXEC);
    void *found = MAP_FAILED;
    if (fd >= 0) {
        found = mmap(NULL, 2 * sizeof *offset, PROT_READ, MAP_SHARED, fd, 0);
        close(fd);
    }
    if (found != MAP_FAILED)
        offset = found;
}

static void step(struct timespec *now) {
    int64_t milliseconds = 0;
    if (offset != NULL) {
        if (offset[1] > 0 && ++looks % offset[1] == 0)
            steps++;
        milliseconds = offset[0] + 1000 * steps;
    }
    int64_t nanoseconds = now->tv_nsec + milliseconds % 1000 * 1000000;
    now->tv_sec += milliseconds / 1000;
    for (; nanoseconds < 0; nanoseconds += 1000000000)
        now->tv_sec--;
    for (; nanoseconds >= 1000000000; nanoseconds -= 1000000000)
        now->tv_sec++;
    now->tv_nsec = nanoseconds;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    const int code = (int)syscall(SYS_clock_gettime, clock, now);
    if (code == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        step(now);
    return code;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec exact;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out != NULL)
        *out = now.tv_sec;
    return now.tv_sec;
}
