/* Prints the addresses of names as musl's own resolver finds them, one line per name. */
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

int main(int count, char **names) {
  for (int index = 1; index < count; index++) {
    struct addrinfo hints, *found = 0;
    memset(&hints, 0, sizeof hints);
    hints.ai_socktype = SOCK_STREAM;
    int error = getaddrinfo(names[index], 0, &hints, &found);
    printf("%s:", names[index]);
    if (error) printf(" error %d", error);
    for (; found; found = found->ai_next) {
      char text[INET6_ADDRSTRLEN];
      void *address = found->ai_family == AF_INET ? (void *)&((struct sockaddr_in *)found->ai_addr)->sin_addr
                                                  : (void *)&((struct sockaddr_in6 *)found->ai_addr)->sin6_addr;
      printf(" %s", inet_ntop(found->ai_family, address, text, sizeof text));
    }
    printf("\n");
  }
}
