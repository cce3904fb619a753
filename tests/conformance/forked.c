/* SPDX-License-Identifier: Apache-2.0 */
/* forked: the command, for many command lines where starting is slow: a simulator decodes every
 * kernel first, which takes longer than most calls. A handle is made once, which loads them all;
 * then each command line is run by a child process, which has them from there.
 * Standard input is a socket of packets (forked.py): the words of a command line, each with its
 * NUL, and three files, its standard streams. The answer is its exit status, or minus the signal
 * that ended it. */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <tailcut.h>
#include <unistd.h>

int tailcut_main(int argc, char **argv); /* main of src/cli */

enum { SOCKET = 0, FILES = 3, MOST_WORDS = 256, MOST_BYTES = 1 << 16 };

static int die(const char *what) {
  perror(what);
  return 1;
}

static int run(char *words, size_t bytes, const int *files) {
  char *argv[MOST_WORDS + 1];
  int argc = 0;
  for (char *at = words; at < words + bytes && argc < MOST_WORDS; at += strlen(at) + 1) {
    argv[argc++] = at;
  }
  argv[argc] = NULL;
  for (int i = 0; i < FILES; i++) {
    if (dup2(files[i], i) < 0) return die("dup2");
    close(files[i]);
  }
  return tailcut_main(argc, argv);
}

int main(void) {
  static char words[MOST_BYTES + 1];
  tailcut_config config = TAILCUT_CONFIG_INITIALIZER;
  tailcut_handle handle;
  config.device_kind = TAILCUT_DEVICE_CUDA;
  if (tailcut_create(&handle, &config) != TAILCUT_OK) {
    fprintf(stderr, "forked: %s\n", tailcut_last_error());
    return 1;
  }
  tailcut_destroy(handle);
  for (;;) {
    int files[FILES];
    char control[CMSG_SPACE(sizeof files)];
    struct iovec data = {words, MOST_BYTES};
    struct msghdr message = {.msg_iov = &data,
                             .msg_iovlen = 1,
                             .msg_control = control,
                             .msg_controllen = sizeof control};
    const ssize_t bytes = recvmsg(SOCKET, &message, 0);
    if (bytes == 0) return 0;
    const struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    if (bytes < 0 || head == NULL || head->cmsg_len != CMSG_LEN(sizeof files)) {
      return die("recvmsg");
    }
    memcpy(files, CMSG_DATA(head), sizeof files);
    words[bytes] = '\0';
    const pid_t child = fork();
    if (child < 0) return die("fork");
    if (child == 0) exit(run(words, (size_t)bytes, files));
    for (int i = 0; i < FILES; i++) close(files[i]);
    int status;
    if (waitpid(child, &status, 0) < 0) return die("waitpid");
    const int32_t answer = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
    if (send(SOCKET, &answer, sizeof answer, 0) < 0) return die("send");
  }
}
