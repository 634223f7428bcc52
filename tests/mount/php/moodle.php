<?php
// What Moodle 5.1 with local_archiving and its localdir store does to a mount, call by call.
//   php moodle.php MOUNT SOURCE JOB    stores, reads and deletes MOUNT/job-JOB/<name of SOURCE>
// Prints one JSON object per step; the test judges.

error_reporting(E_ALL);
[, $storage, $source, $job] = $argv;
$directory = "$storage/job-$job";
$target = "$directory/" . basename($source);

function tell(string $step, array $facts): void {
    $error = error_get_last();
    error_clear_last();
    echo json_encode(['step' => $step, 'error' => $error['message'] ?? null] + $facts), "\n";
}

function store(string $source, string $directory, string $target): bool {
    if (!is_dir($directory) && !@mkdir($directory, 0777, true)) {
        return false;
    }
    return @copy($source, $target);
}

umask(0);
tell('space', ['free' => disk_free_space($storage), 'total' => disk_total_space($storage)]);
tell('store', ['ok' => store($source, $directory, $target), 'mode' => fileperms($target) & 07777]);

// A second archive under the same name: refused, the first stays.
$other = tempnam(sys_get_temp_dir(), 'other');
file_put_contents($other, str_repeat('other', 1000));
tell('store-again', ['ok' => store($other, $directory, $target)]);
tell('put-contents', ['ok' => @file_put_contents($target, 'other') !== false]);
tell('put-contents-locked', ['ok' => @file_put_contents($target, 'other', LOCK_EX) !== false]);
tell('append', ['ok' => @fopen($target, 'a') !== false]);
tell('rename-onto', ['ok' => @rename($other, $target)]);
@unlink($other);

// retrieve(): access twice, the head in 128 reads of 8 KiB, the last MiB, then everything twice.
clearstatcache();
$size = filesize($target);
$readable = is_readable($target) && is_readable($target);
$file = fopen($target, 'rb');
stream_set_read_buffer($file, 0);
$head = 0;
for ($i = 0; $i < 128; $i++) {
    $head += strlen((string) fread($file, 8192));
}
fseek($file, max(0, $size - 1048576));
$tail = 0;
while (($data = fread($file, 8192)) !== false && $data !== '') {
    $tail += strlen($data);
}
fclose($file);
$hashes = [];
for ($i = 0; $i < 2; $i++) {
    $hash = hash_init('sha256');
    $file = fopen($target, 'rb');
    while (($data = fread($file, 8192)) !== false && $data !== '') {
        hash_update($hash, $data);
    }
    fclose($file);
    $hashes[] = hash_final($hash);
}
tell('retrieve', ['readable' => $readable, 'size' => $size, 'head' => $head, 'tail' => $tail, 'sha256' => $hashes]);

// delete(): the file stays, so its directory does.
tell('delete', ['ok' => @unlink($target)]);
tell('rmdir-used', ['ok' => @rmdir($directory)]);

// Empty directories go, the parents up to the store too.
tell('mkdir', ['ok' => mkdir("$directory/a/b/c", 0777, true), 'mode' => fileperms("$directory/a/b/c") & 07777]);
$removed = 0;
for ($path = "$directory/a/b/c"; $path !== $directory; $path = dirname($path)) {
    $handle = opendir($path);
    $entries = 0;
    while (($name = readdir($handle)) !== false) {
        $entries += $name !== '.' && $name !== '..';
    }
    closedir($handle);
    $removed += $entries === 0 && rmdir($path);
}
tell('rmdir', ['removed' => $removed]);
