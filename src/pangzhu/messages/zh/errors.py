"""错误信息的版式，以及磁盘拒绝写入的情形。"""

MESSAGES = {
    "error.what": "错误：{what}",
    "error.where": "  位置：{where}",
    "error.fix": "  办法：{fix}",
    "error.disk.full": "磁盘已满。",
    "error.disk.full.fix": "腾出一些空间，再运行同一条命令。",
    "error.disk.forbids": "系统不允许使用这个文件或文件夹：{reason}。",
    "error.disk.forbids.fix": "改正它的权限，或换一个路径；需要文件夹的位置不能是文件，需要文件的位置也不能是文件夹。",
    "error.disk.gone": "这个文件所在的文件夹不见了：运行期间被移走或删除，或者它所在的磁盘已被拔出。",
    "error.disk.gone.fix": "把它放回原处；或再运行一次同一条命令，从头开始。",
    "error.disk.held": "另一个程序正打开着这个文件。",
    "error.disk.held.fix": "关闭那个程序，或让杀毒软件跳过这个文件夹，再运行同一条命令。",
    "error.nearest": " 您是不是想写“{word}”？",
}
