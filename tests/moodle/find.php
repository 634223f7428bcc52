<?php
// Finds a stored file as Moodle's file API does (file_storage::get_file, stored_file::get_content_file_handle,
// file_system_filedir::get_local_path_from_hash), with PDO instead of Moodle.
//   php find.php DSN PREFIX FILEDIR CONTEXT COMPONENT FILEAREA ITEMID FILEPATH FILENAME; the password on stdin
[, $dsn, $prefix, $filedir, $contextid, $component, $filearea, $itemid, $filepath, $filename] = $argv;
$db = new PDO($dsn, 'moodle', trim(fgets(STDIN)), [PDO::ATTR_ERRMODE => PDO::ERRMODE_EXCEPTION]);

function row(PDO $db, string $prefix, string $hash): ?array {
    $statement = $db->prepare("SELECT * FROM {$prefix}files WHERE pathnamehash = ?");
    $statement->execute([$hash]);
    return $statement->fetch(PDO::FETCH_ASSOC) ?: null;
}

function pathname_hash(...$parts): string {
    return sha1('/' . implode('/', array_slice($parts, 0, 4)) . $parts[4] . $parts[5]);
}

$found = row($db, $prefix, pathname_hash($contextid, $component, $filearea, $itemid, $filepath, $filename));
$directories = [];
for ($path = $filepath; ; $path = dirname($path) === '/' ? '/' : dirname($path) . '/') {
    $directory = row($db, $prefix, pathname_hash($contextid, $component, $filearea, $itemid, $path, '.'));
    $directories[$path] = $directory !== null && $directory['contenthash'] === sha1('') && $directory['filesize'] == 0;
    if ($path === '/') {
        break;
    }
}
$hash = $found['contenthash'];
$file = "$filedir/" . substr($hash, 0, 2) . '/' . substr($hash, 2, 2) . "/$hash";
// file_storage::get_area_files: what the lists show.
$list = $db->prepare("SELECT filepath, filename FROM {$prefix}files WHERE contextid = ? AND component = ? AND filearea = ?
    AND itemid = ? AND filename <> '.' ORDER BY filepath, filename");
$list->execute([$contextid, $component, $filearea, $itemid]);
echo json_encode([
    'mimetype' => $found['mimetype'],
    'status' => (int) $found['status'],
    'size_fits' => filesize($file) === (int) $found['filesize'],
    'sha1_fits' => sha1_file($file) === $hash,
    'sha256' => hash_file('sha256', $file),
    'directories' => $directories,
    'listed' => array_map(fn($row) => $row['filepath'] . $row['filename'], $list->fetchAll(PDO::FETCH_ASSOC)),
]), "\n";
