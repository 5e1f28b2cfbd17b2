/* Each argument through getaddrinfo (an address through getnameinfo): name, result, ms, what was found. */
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

static long now_ms(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

int main(int count, char **names) {
  for (int i = 1; i < count; i++) {
    struct sockaddr_in address = {.sin_family = AF_INET};
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found = NULL;
    char text[256] = "";
    long start = now_ms();
    int code;
    if (inet_pton(AF_INET, names[i], &address.sin_addr) == 1) {
      code = getnameinfo((void *)&address, sizeof address, text, sizeof text, NULL, 0, NI_NAMEREQD);
    } else {
      code = getaddrinfo(names[i], "80", &hints, &found);
    }
    printf("%s %d %ld %s", names[i], code, now_ms() - start, text);
    for (struct addrinfo *one = found; one; one = one->ai_next) {
      getnameinfo(one->ai_addr, one->ai_addrlen, text, sizeof text, NULL, 0, NI_NUMERICHOST);
      printf(" %s", text);
    }
    printf("\n");
  }
  return 0;
}
