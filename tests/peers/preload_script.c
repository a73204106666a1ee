/* preload_script: calls of the two cookie functions, and what servers do around them, one a line of
 * stdin; the answer is a line of stdout. Bytes are in hex; "-" is none of them, "null" is NULL.
 *
 *   verify KEY CLIENT_DATA MESSAGE NUMBERS   result and the three numbers of the prestate after it
 *   send KEY CLIENT_DATA NUMBERS             result and what was pushed
 *   many COUNT                               calls of the recipe, half of them with a good cookie
 *   time SECONDS                             sets the clock of this process
 *   close | open FILE | user ID | root FOLDER | daemon | fork | strict | filter | shell COMMAND
 *
 * NUMBERS are "R H W", those of the prestate before the call. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <gnutls/dtls.h>
#include <gnutls/gnutls.h>
#include <grp.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct bytes {
    unsigned char data[70000];
    size_t size;
    int is_null;
};
static struct bytes key, who, message, pushed;
static char answer[300000], line[300000];
static double fixed_time;
static int (*real_clock)(clockid_t clock, struct timespec *now);

/* Stands before the C library's for everything in this process. */
int clock_gettime(clockid_t clock, struct timespec *now) {
    if (fixed_time <= 0)
        return real_clock(clock, now);
    now->tv_sec = (time_t)fixed_time;
    now->tv_nsec = (long)((fixed_time - (double)now->tv_sec) * 1e9);
    return 0;
}

static ssize_t push(gnutls_transport_ptr_t ptr, const void *data, size_t size) {
    struct bytes *out = ptr;
    memcpy(out->data, data, size);
    out->size = size;
    return (ssize_t)size;
}

static void say(const char *text) {
    size_t size = strlen(text);
    while (size > 0) {
        ssize_t some = write(1, text, size);
        if (some <= 0)
            _exit(3);
        text += some;
        size -= (size_t)some;
    }
}

/* A line without buffers, locks or anything else that a sandbox would have to allow. */
static int next_line(void) {
    size_t at = 0;
    while (at < sizeof line - 1) {
        if (read(0, line + at, 1) != 1)
            return 0;
        if (line[at] == '\n')
            break;
        at++;
    }
    line[at] = 0;
    return 1;
}

static int digit(char c) {
    return c <= '9' ? c - '0' : c - 'a' + 10;
}

/* Reads a word and gives what follows it. */
static char *read_bytes(char *text, struct bytes *out) {
    out->size = 0;
    out->is_null = strncmp(text, "null", 4) == 0;
    if (out->is_null)
        return text + 5;
    for (; *text != ' ' && *text != 0; text += text[0] == '-' ? 1 : 2) {
        if (*text != '-')
            out->data[out->size++] = (unsigned char)(digit(text[0]) * 16 + digit(text[1]));
    }
    return text + (*text == ' ');
}

static unsigned int number(char **text) {
    return (unsigned int)strtoul(*text, text, 10);
}

static void add_number(char *out, long long value) {
    char digits[24];
    size_t at = sizeof digits - 1;
    unsigned long long left =
        value < 0 ? 0ull - (unsigned long long)value : (unsigned long long)value;
    digits[at] = 0;
    do {
        digits[--at] = (char)('0' + left % 10);
        left /= 10;
    } while (left > 0);
    if (value < 0)
        digits[--at] = '-';
    strcat(out, digits + at);
}

static void *pointer(struct bytes *of) {
    return of->is_null ? NULL : of->data;
}

static void call(char *text, int is_send) {
    static const char hex[] = "0123456789abcdef";
    gnutls_dtls_prestate_st prestate;
    int result;

    text = read_bytes(text, &key);
    text = read_bytes(text, &who);
    if (!is_send)
        text = read_bytes(text, &message);
    prestate.record_seq = number(&text);
    prestate.hsk_read_seq = number(&text);
    prestate.hsk_write_seq = number(&text);
    gnutls_datum_t datum = {pointer(&key), (unsigned int)key.size};
    gnutls_datum_t *given = key.is_null ? NULL : &datum;
    answer[0] = 0;
    if (is_send) {
        pushed.size = 0;
        result = gnutls_dtls_cookie_send(given, pointer(&who), who.size, &prestate, &pushed, push);
        add_number(answer, result);
        size_t at = strlen(answer);
        answer[at++] = ' ';
        for (size_t one = 0; one < pushed.size; one++) {
            answer[at++] = hex[pushed.data[one] >> 4];
            answer[at++] = hex[pushed.data[one] & 15];
        }
        answer[at] = 0;
    } else {
        result = gnutls_dtls_cookie_verify(given, pointer(&who), who.size, pointer(&message),
                                           message.size, &prestate);
        add_number(answer, result);
        strcat(answer, " ");
        add_number(answer, prestate.record_seq);
        strcat(answer, " ");
        add_number(answer, prestate.hsk_read_seq);
        strcat(answer, " ");
        add_number(answer, prestate.hsk_write_seq);
    }
}

/* A hello of 85 bytes with room for a cookie: challenged, then verified. */
static void many(long count) {
    gnutls_datum_t datum = {(unsigned char *)"0123456789abcdef", 16};
    long good = 0;
    for (long at = 0; at < count; at++) {
        unsigned char hello[85] = {0x16, 0xfe, 0xff}, peer[16] = {2};
        gnutls_dtls_prestate_st prestate;
        hello[12] = 72;
        hello[13] = 1;
        hello[16] = hello[24] = 60;
        hello[25] = 0xfe;
        hello[26] = 0xfd;
        hello[60] = 16;
        hello[78] = 2;
        hello[81] = 1;
        peer[2] = (unsigned char)at;
        peer[3] = (unsigned char)(at >> 8);
        if (at % 2 == 1)
            memcpy(hello + 61, pushed.data + 28, 16);
        peer[2] &= 0xfe; /* both of a pair are one client */
        memset(&prestate, 0, sizeof prestate);
        if (gnutls_dtls_cookie_verify(&datum, peer, 16, hello, 85, &prestate) >= 0)
            good++;
        else
            gnutls_dtls_cookie_send(&datum, peer, 16, &prestate, &pushed, push);
    }
    answer[0] = 0;
    add_number(answer, good);
}

#define ALLOW(number)                                                                              \
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)

/* read, write and exit, for all threads of the process; anything else kills it. */
static int only_read_and_write(void) {
    struct sock_filter rules[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        ALLOW(SYS_read),
        ALLOW(SYS_write),
        ALLOW(SYS_exit),
        ALLOW(SYS_exit_group),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
    };
    struct sock_fprog program = {sizeof rules / sizeof rules[0], rules};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
        return -1;
    return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program);
}

static int act(const char *word, char *rest) {
    if (strcmp(word, "close") == 0) {
        for (int file = 3; file < 256; file++)
            close(file);
        return 0;
    }
    if (strcmp(word, "open") == 0)
        return open(rest, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    if (strcmp(word, "user") == 0)
        return setgroups(0, NULL) || setgid((gid_t)atoi(rest)) || setuid((uid_t)atoi(rest));
    if (strcmp(word, "root") == 0)
        return chroot(rest) || chdir("/");
    if (strcmp(word, "daemon") == 0)
        return daemon(0, 1);
    if (strcmp(word, "fork") == 0) { /* the child goes on, and its parent waits for it */
        pid_t child = fork();
        if (child <= 0)
            return child;
        waitpid(child, NULL, 0);
        _exit(0);
    }
    if (strcmp(word, "strict") == 0)
        return prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT);
    if (strcmp(word, "filter") == 0)
        return only_read_and_write();
    if (strcmp(word, "shell") == 0)
        return system(rest);
    return -2;
}

int main(void) {
    void *found = dlsym(RTLD_NEXT, "clock_gettime");
    memcpy(&real_clock, &found, sizeof found);
    while (next_line()) {
        char *space = strchr(line, ' ');
        char *rest = space == NULL ? line + strlen(line) : space + 1;
        if (space != NULL)
            *space = 0;
        if (strcmp(line, "verify") == 0 || strcmp(line, "send") == 0)
            call(rest, line[0] == 's');
        else if (strcmp(line, "many") == 0)
            many(atol(rest));
        else if (strcmp(line, "time") == 0) {
            fixed_time = atof(rest);
            strcpy(answer, "0");
        } else {
            int result = act(line, rest);
            answer[0] = 0;
            add_number(answer, result);
        }
        strcat(answer, "\n");
        say(answer);
    }
    syscall(SYS_exit, 0); /* what a strict sandbox allows */
}
