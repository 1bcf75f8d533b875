// A library to preload that records what a run has synchronised, and so what a loss of power would leave: the content of a
// file at its last fsync, and the names in a folder at the folder's last fsync. `kills.py` makes that folder.
//
// UNSYNCED_RECORD is the folder to record in: `file-ID` is the content of a file, `folder-ID` lists the names in a folder
// as `NAME\tID`. An ID is the inode's number and time of birth, since numbers are used again.
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void fail(const char* what) {
    perror(what);
    _exit(70);
}

static int id_of(int folder, const char* name, int flags, char* id, size_t size, unsigned* mode) {
    struct statx found;
    if (statx(folder, name, flags | AT_SYMLINK_NOFOLLOW, STATX_INO | STATX_BTIME | STATX_TYPE, &found) != 0) return -1;
    snprintf(id, size, "%llu-%lld-%u", (unsigned long long)found.stx_ino, (long long)found.stx_btime.tv_sec,
             found.stx_btime.tv_nsec);
    *mode = found.stx_mode;
    return 0;
}

static void copy(int from, FILE* to) {
    static __thread char bytes[1 << 16];
    off_t at = 0;
    for (ssize_t count; (count = pread(from, bytes, sizeof bytes, at)) != 0; at += count) {
        if (count < 0 || fwrite(bytes, 1, (size_t)count, to) != (size_t)count) fail("recording a file");
    }
}

static void list(int from, FILE* to) {
    const int own = openat(from, ".", O_RDONLY | O_DIRECTORY);
    DIR* folder = own < 0 ? NULL : fdopendir(own);
    if (!folder) fail("recording a folder");
    for (struct dirent* entry; (entry = readdir(folder));) {
        char id[64];
        unsigned mode;
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
        if (id_of(from, entry->d_name, 0, id, sizeof id, &mode) == 0) fprintf(to, "%s\t%s\n", entry->d_name, id);
    }
    closedir(folder);
}

// Records what `fd` is now. A record is complete or absent: it is renamed to its place.
static void record(int fd) {
    const char* root = getenv("UNSYNCED_RECORD");
    char id[64], path[PATH_MAX], temporary[PATH_MAX];
    unsigned mode;
    if (!root || id_of(fd, "", AT_EMPTY_PATH, id, sizeof id, &mode) != 0) return;
    const int is_folder = S_ISDIR(mode);
    if (!is_folder && !S_ISREG(mode)) return;
    snprintf(path, sizeof path, "%s/%s-%s", root, is_folder ? "folder" : "file", id);
    snprintf(temporary, sizeof temporary, "%s/writing-%d-%s", root, gettid(), id);
    FILE* to = fopen(temporary, "w");
    if (!to) fail("recording");
    // The program may have opened the file for writing only.
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    const int from = is_folder ? fd : open(link, O_RDONLY);
    if (from < 0) fail("recording a file");
    if (is_folder) {
        list(from, to);
    } else {
        copy(from, to);
        close(from);
    }
    if (fclose(to) != 0 || rename(temporary, path) != 0) fail("recording");
}

#define SYNCHRONISE(name)                                                          \
    int name(int fd) {                                                             \
        static int (*real)(int);                                                   \
        if (!real && !(real = (int (*)(int))dlsym(RTLD_NEXT, #name))) fail(#name); \
        const int result = real(fd);                                               \
        if (result == 0) record(fd);                                               \
        return result;                                                             \
    }
SYNCHRONISE(fsync)
SYNCHRONISE(fdatasync)
