// Makes the same system call again and again: calls COUNT NUMBER
#include <stdlib.h>
#include <unistd.h>

int main(int count, char **words) {
  if (count != 3) return 2;
  const long number = atol(words[2]);
  for (long left = atol(words[1]); left > 0; --left) syscall(number);
  return 0;
}
